"""Pictures in random company: `python benchmarks/service.py companies`.

At least three requests at once, of random prompts, steps, samplers, guidance and numbers of
pictures; each must have the pixels that it has alone, whoever else is drawn.
"""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rapid_diffusion.testing import build_micro_model
from server.device import LocalDevice, WorkRequest
from server.device_main import LoadPipeline
from server.encoding import pixel_sha256

ROWS = 8
WISHES: list[tuple[str, dict[str, Any]]] = [
    (prompt, {"seed": seed, "num_inference_steps": steps, "upscale": 1} | more)
    for prompt in ("老虎", "卡通猫", "扁平风格的大红苹果")
    for seed, steps in ((1, 1), (2, 4), (3, 9))
    for more in (
        {},
        {"guidance_scale": 1.0},
        {"scheduler": "dpmpp_2m_sde"},
        {"num_images_per_prompt": 3},
    )
]


def companies(folder: Path, count: int) -> dict[str, Any]:
    """Draw `count` random companies of three to five, and compare each picture."""
    model = build_micro_model(folder / "micro")
    device = LocalDevice(LoadPipeline(str(model), "cpu", 1, rows=ROWS)())
    alone = [_drawn(device, place) for place in range(len(WISHES))]
    chance, drawn, different = random.Random(0), 0, 0
    with ThreadPoolExecutor(5) as pool:
        for _ in range(count):
            asked = chance.choices(range(len(WISHES)), k=chance.randint(3, 5))
            for place, pixels in zip(
                asked, pool.map(lambda place: _drawn(device, place), asked), strict=True
            ):
                drawn += 1
                different += pixels != alone[place]
    return {"companies": count, "requests": drawn, "rows": ROWS, "different": different}


def _drawn(device: LocalDevice, place: int) -> list[str]:
    prompt, wishes = WISHES[place]
    result = device.draw(WorkRequest("id", prompt, wishes), lambda *_: None)
    return [pixel_sha256(pixels) for pixels in result.images]
