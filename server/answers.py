"""From a finished run to the answer: files, labels, and the facts that go with them."""

import hashlib
import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

from fastapi import Response

from rapid_diffusion import GenerationResult
from rapid_diffusion.images.label import Position, explicit_fact, generation_text
from server.capabilities import Capabilities
from server.encoding import EncodedImage, encode_image
from server.images import Addresses
from server.lookup import describe_link, describe_unlinked
from server.reading import Delivery
from server.schemas import GenerationRequest


@dataclass(frozen=True)
class Finished:
    """A run and all that its answer needs; times are monotonic seconds."""

    request: GenerationRequest
    result: GenerationResult
    delivery: Delivery
    capabilities: Capabilities
    producer: str
    began: float
    queue_seconds: float
    label: Position | None = None  # the corner of the explicit label
    embeds: bool = True  # the files say how they were drawn
    addresses: Addresses | None = None  # where the pictures are kept that are not in the answer


@dataclass(frozen=True)
class Drawn:
    """The pictures as files, and the body of an answer about them, without the files."""

    images: list[EncodedImage]
    body: dict[str, Any]
    spent: str


def encode_answer(finished: Finished, answer_id: str) -> Drawn:
    """Encode the pictures and say what there is to say of them; `data` is the caller's to fill.

    Slow (milliseconds a picture): call it in a thread. Raises what the encoders raise.
    """
    encoding = time.monotonic()
    texts = [
        _text_of(finished, seed, f"{answer_id}-{index}")
        for index, seed in enumerate(finished.result.seeds)
    ]
    kind, quality = finished.delivery.image_format, finished.request.output_quality
    images = [
        encode_image(pixels, kind, quality, text, finished.label)
        for pixels, text in zip(finished.result.images, texts, strict=True)
    ]
    timings = _timings(finished, encoding, time.monotonic())
    facts = {"id": answer_id, "created": int(time.time())}
    body = facts | _describe(finished, images, texts) | {"timings_ms": timings}
    return Drawn(images, body, ", ".join(f"{name};dur={ms}" for name, ms in timings.items()))


def build_answer(finished: Finished) -> Response:
    """The answer with its pictures in it; nothing is sent before all of it is ready. Slow."""
    drawn = encode_answer(finished, new_answer_id())
    spent = {"Server-Timing": drawn.spent}
    if finished.delivery.binary:
        return _binary_answer(finished, drawn.images[0], spent)
    give_pictures(drawn, finished.addresses)
    content = json.dumps(drawn.body, ensure_ascii=False, allow_nan=False).encode()
    return Response(content, headers=spent, media_type="application/json")


def give_pictures(drawn: Drawn, addresses: Addresses | None) -> Drawn:
    """Put the pictures into the body's `data`: their bytes, or their addresses. Slow."""
    if addresses is None:
        given = [{"b64_json": image.base64()} for image in drawn.images]
    else:
        given = addresses.keep(drawn.body["id"], drawn.images)
    for entry, more in zip(drawn.body["data"], given, strict=True):
        entry |= more
    return drawn


def new_answer_id() -> str:
    """A number that nobody can guess, with the time in front: see `server.images`."""
    return f"img_{round(1000 * time.time()):012x}{secrets.token_hex(10)}"


def _binary_answer(finished: Finished, image: EncodedImage, headers: dict[str, str]) -> Response:
    headers |= {"X-Seed": str(finished.result.seeds[0]), "X-Pixel-SHA256": image.pixel_sha256}
    truncated = finished.result.truncated[0]
    if truncated is not None:
        headers["X-Truncated-At"] = str(truncated)
    return Response(image.content, headers=headers, media_type=image.mime_type)


def _describe(
    finished: Finished, images: list[EncodedImage], texts: list[dict[str, str]]
) -> dict[str, Any]:
    """The body of the answer, without its id and its times."""
    result, able = finished.result, finished.capabilities
    pairs = zip(images, result.seeds, strict=True)
    return {
        "model": able.model,
        "data": [
            image.describe(seed) | _choice(result, place)
            for place, (image, seed) in enumerate(pairs)
        ],
        "parameters": result.parameters,
        "truncated": _truncated(finished),
        "unknown": result.unknown[0],
        "entities": _entities(finished),
        "unlinked": describe_unlinked(result.unlinked[0] if result.unlinked else []),
        "knowledge": {"version": able.knowledge_version},
        "repro": {"key": _repro_key(finished), "engine": able.engine},
        "provenance": {
            "aigc": [json.loads(text["AIGC"]) for text in texts],
            **explicit_fact(finished.label),
        },
    }


def _choice(result: GenerationResult, place: int) -> dict[str, Any]:
    """What a picture was chosen from: its candidates' seeds and scores; nothing for one alone."""
    return {"candidates": result.candidates[place].as_dict()} if result.candidates else {}


def _text_of(finished: Finished, seed: int, produce_id: str) -> dict[str, str]:
    """The metadata of one picture: how it was made, and that AI made it under which number."""
    facts = finished.result.parameters | {
        "prompt": finished.request.prompt,
        "seed": seed,
        "label": explicit_fact(finished.label),
        **finished.request.model_dump(include={"entities"}),
        **finished.capabilities.origin,
    }
    if adapter := finished.capabilities.adapters.get(finished.request.adapter or ""):
        facts["adapter_digest"] = adapter["digest"]
    text = generation_text(facts, finished.producer, produce_id)
    return text if finished.embeds else {"AIGC": text["AIGC"]}


def _truncated(finished: Finished) -> dict[str, Any] | None:
    """Where the encoder stopped reading: the first character lost; None when it read all."""
    start = finished.result.truncated[0]
    if start is None:
        return None
    return {"start": start, "character": finished.request.prompt[start]}


def _entities(finished: Finished) -> list[dict[str, Any]]:
    links, asked = finished.result.links[0], finished.request.entities
    # Entities that the caller names come back in the caller's order, one link each.
    weights = [e.weight for e in asked] if isinstance(asked, list) else [1.0] * len(links)
    return [
        describe_link(link) | {"weight": weight}
        for link, weight in zip(links, weights, strict=True)
    ]


def _repro_key(finished: Finished) -> str:
    """Equal for requests that ask for the same pixels of the same model and graph."""
    facts = {
        "digest": finished.capabilities.digest,
        "knowledge": finished.capabilities.knowledge_version,
        "adapter": finished.capabilities.adapters.get(finished.request.adapter or ""),
        "prompt": finished.request.prompt,
        "entities": finished.request.model_dump(include={"entities"}),
        "parameters": finished.result.parameters,
        "seeds": finished.result.seeds,
        "label": finished.label,
    }
    content = json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _timings(finished: Finished, encoding: float, now: float) -> dict[str, float]:
    seconds = {"queue": finished.queue_seconds, **finished.result.timings}
    seconds |= {"encode": now - encoding, "total": now - finished.began}
    return {name: round(1000 * value, 1) for name, value in seconds.items()}
