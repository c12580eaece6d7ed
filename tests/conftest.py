"""What several rooms' tests share: one micro model for the whole session."""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.precision import FLOAT32_VARIABLE
from rapid_diffusion.testing import build_micro_adapter, build_micro_model

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def pytest_configure() -> None:
    """What is compared to the bit or nearly is meant for float32, on every processor.

    On one that multiplies bfloat16 that would be the default, of processes that tests start too.
    """
    os.environ[FLOAT32_VARIABLE] = "1"


@pytest.fixture(scope="session")
def micro_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete tiny random model on disk. Do not write into it: copy it first."""
    return build_micro_model(tmp_path_factory.mktemp("micro") / "model")


@pytest.fixture(scope="session")
def micro_adapter_folder(
    micro_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A random adapter of that model. Do not write into it: copy it first."""
    return build_micro_adapter(tmp_path_factory.mktemp("adapters") / "random", micro_model_folder)


@pytest.fixture(scope="session")
def micro_pipeline(micro_model_folder: Path) -> RapidDiffusionPipeline:
    """That model in memory. Do not change it: open your own."""
    return RapidDiffusionPipeline.from_pretrained(micro_model_folder)


@pytest.fixture
def benchmark_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """`benchmark_script("soak")` imports `benchmarks/soak.py`, as if it were run from there."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load
