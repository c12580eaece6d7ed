"""`GET /v1/capabilities`: what can be asked for, so that a client need not guess."""

from typing import Any, get_args

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from rapid_diffusion import __version__
from rapid_diffusion.images.label import POSITIONS
from server.capabilities import Capabilities
from server.schemas import MAX_ENTITIES, MAX_PROMPT, MAX_SEED, ImageFormat
from server.service import service_of

router = APIRouter()


@router.get("/v1/capabilities")
async def capabilities(request: Request) -> Response:
    """Sizes, schedulers, formats, limits, defaults, and whose artwork the model learned from."""
    service = service_of(request)
    limits = {
        "body_bytes": service.settings.body_limit,
        "prompt_characters": [1, MAX_PROMPT],
        "num_inference_steps": [1, 100],
        "guidance_scale": [0, 30],
        "adapter_scale": [0, 2],
        "num_images_per_prompt": [1, 8],
        "num_candidates": [1, service.capabilities.most_candidates],
        "seed": [0, MAX_SEED],
        "entities": MAX_ENTITIES,
        "queue_size": service.settings.queue_size,
    }
    given = ["b64_json", "binary"] + ([] if service.jobs is None else ["url"])
    label = {"explicit": service.settings.explicit_label, "positions": list(POSITIONS)}
    return JSONResponse(
        _describe(service.capabilities)
        | {"response_formats": given, "limits": limits, "label": label}
    )


def _describe(able: Capabilities) -> dict[str, Any]:
    return {
        "version": __version__,
        "model": able.model,
        "device": able.device,
        "sizes": [{"width": width, "height": height} for height, width in able.sizes],
        "upscales": able.upscales,
        "schedulers": able.schedulers,
        "styles": list(able.styles),
        "adapters": list(able.adapters.values()),
        "output_formats": list(get_args(ImageFormat)),
        "defaults": able.defaults,
        "knowledge": {"version": able.knowledge_version},
        "attributions": able.attributions,
    }
