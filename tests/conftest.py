"""What several rooms' tests share: one micro model for the whole session."""

from pathlib import Path

import pytest

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.testing import build_micro_adapter, build_micro_model


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
