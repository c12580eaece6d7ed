"""A cancel at every step: it ends within a step, and the neighbour's picture stays as it is."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.errors import CanceledError
from server.device import LocalDevice, WorkRequest
from server.device_main import LoadPipeline

STEPS = 6


@pytest.fixture(scope="module")
def shared(micro_model_folder: Path) -> RapidDiffusionPipeline:
    return LoadPipeline(str(micro_model_folder), "cpu", None, rows=8)()


def request(seed: int) -> WorkRequest:
    return WorkRequest("id", "老虎", {"seed": seed, "num_inference_steps": STEPS})


def drawn(device: LocalDevice, wanted: WorkRequest, after_step: Any = lambda *_: None) -> bytes:
    return np.asarray(device.draw(wanted, after_step).images).tobytes()


@pytest.mark.parametrize("place", range(STEPS + 1))
def test_cancel_at_any_step_ends_it_there_and_leaves_the_neighbour(
    shared: RapidDiffusionPipeline, place: int
) -> None:
    device, first, told = LocalDevice(shared), request(1), []

    def after_step(step: int, _steps: int, _previews: object = ()) -> None:
        told.append(step)
        if step == place:
            device.cancel(first)

    alone = drawn(device, request(2))
    with ThreadPoolExecutor(2) as pool:
        ended = pool.submit(drawn, device, first, after_step)
        other = pool.submit(drawn, device, request(2))
        error = ended.exception(60)
        assert other.result(60) == alone
    assert max(told) <= place + 1
    # After the last step it is decoded, as a picture that nobody may want.
    assert isinstance(error, CanceledError) or (place == STEPS and error is None)
    assert drawn(device, request(2)) == alone
