"""`rapid-diffusion verify`: draw a picture again from what it says of itself, and compare."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rapid_diffusion.commands.generate import ArtifactsOption, GraphOption
from rapid_diffusion.errors import InvalidRequestError

if TYPE_CHECKING:
    from rapid_diffusion import EntityWeight, RapidDiffusionPipeline
    from rapid_diffusion.images.convert import Pixels

DIFFERENT = 1
#: What a picture's label says of its call, in the pipeline's names.
_CALL = (
    "negative_prompt",
    "height",
    "width",
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
    "upscale",
    "adapter_scale",
    "style",
)


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A PNG that this system drew.")],
    model: Annotated[
        str | None, typer.Option(help="Model folder, if the name in the picture is not enough.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="The adapter's folder, where it was drawn with one.")
    ] = None,
    graph: GraphOption = None,
    artifacts: ArtifactsOption = None,
    tolerance: Annotated[
        int, typer.Option(help="Levels (of 255) that a pixel may differ by.", min=0, max=255)
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw a picture again from what it says of itself, and compare the pixels.

    Leaves with 1 if they differ by more than --tolerance, and says what else is not as it was:
    another model, graph, adapter or engine. A picture that compiled artifacts drew is drawn with
    those of the default folder unless --artifacts names others.
    """
    from rapid_diffusion import RapidDiffusionPipeline

    told = told_by(file)
    artifacts = artifacts or ("auto" if "artifacts" in told else None)
    pipe = RapidDiffusionPipeline.from_pretrained(
        model or str(told.get("model", "emoji-zh")), knowledge=graph, artifacts=artifacts
    )
    if told.get("rows") is not None:
        pipe.share_engine(_rows(told["rows"]))
    name = _load_adapter(pipe, told, adapter)
    report: dict[str, Any] = {"file": str(file), "changed": changes(pipe, told, name)}
    again = labelled_again(draw_again(pipe, told, name), told)
    report |= difference(pixels_of(file), again)
    report["same"] = report["largest_difference"] <= tolerance
    typer.echo(json.dumps(report, ensure_ascii=False) if as_json else _as_text(report))
    if not report["same"]:
        raise typer.Exit(DIFFERENT)


def told_by(file: Path) -> dict[str, Any]:
    """What the picture says of the call that drew it.

    Raises `InvalidRequestError` where that is not enough to draw it again.
    """
    from rapid_diffusion.images.label import read_labels

    labels = read_labels(file)
    if labels["format"] != "PNG":
        raise InvalidRequestError(
            "file", f"{file} is {labels['format']}, which does not keep pixels exactly; give a PNG"
        )
    told = labels["parameters"]
    if not isinstance(told, dict) or not {"prompt", "seed"} <= set(told):
        raise InvalidRequestError(
            "file", f"{file} does not say how it was drawn (no `parameters` with prompt and seed)"
        )
    return told


def changes(
    pipe: "RapidDiffusionPipeline", told: Mapping[str, Any], adapter: str | None = None
) -> dict[str, Any]:
    """What is not as it was when the picture was drawn: then and now, by name.

    `adapter` is what the adapter that draws it again was loaded as.
    """
    now = dict(pipe.origin)
    if adapter is not None:
        now["adapter_digest"] = pipe.adapters[adapter].digest
    return {
        name: {"then": told[name], "now": now[name]}
        for name in now
        if name in told and told[name] != now[name]
    }


def draw_again(
    pipe: "RapidDiffusionPipeline", told: Mapping[str, Any], adapter: str | None = None
) -> "Pixels":
    """The picture (H, W, 3) that this model draws from the same call, with a loaded adapter."""
    drawn = pipe(
        told["prompt"],
        seed=told["seed"],
        knowledge=_knowledge(told.get("entities", "auto")),
        adapter=adapter,
        output_type="numpy",
        **{name: told[name] for name in _CALL if name in told},
    )
    picture: Pixels = drawn.images[0]
    return picture


def labelled_again(pixels: "Pixels", told: Mapping[str, Any]) -> "Pixels":
    """The picture with the explicit label that the file says it has, or without one."""
    from rapid_diffusion.images.label import draw_label

    label = told.get("label")
    if not isinstance(label, dict) or label.get("explicit") is not True:
        return pixels
    return draw_label(pixels, str(label.get("position", "bottom_right")))


def _load_adapter(
    pipe: "RapidDiffusionPipeline", told: Mapping[str, Any], folder: Path | None
) -> str | None:
    """What the adapter is loaded as that drew the picture; None where it was drawn without one."""
    if "adapter" not in told:
        return None
    if folder is None:
        raise InvalidRequestError(
            "adapter", f"{told['adapter']!r} drew it; name its folder with --adapter"
        )
    return pipe.load_adapter(folder)


def _rows(told: object) -> "int | Literal['fit']":
    """Those of the engine that drew it; a file may say anything, and memory is asked for them."""
    from rapid_diffusion import MOST_ROWS

    if told == "fit":
        return "fit"
    if isinstance(told, int) and 2 <= told <= MOST_ROWS:
        return told
    raise InvalidRequestError("file", f"says rows {told!r}; allowed: 2 to {MOST_ROWS}, or 'fit'")


def _knowledge(entities: object) -> "bool | list[EntityWeight]":
    """`entities` as a request has them: auto, off, or a list of their own."""
    from rapid_diffusion import EntityWeight

    if not isinstance(entities, list):
        return entities != "off"
    for entity in entities:
        if not isinstance(entity, dict) or not {"id", "weight"} <= set(entity):
            raise InvalidRequestError(
                "file", f"says of an entity {entity!r:.80}; an object with id and weight is wanted"
            )
    return [EntityWeight(e["id"], e["weight"], e.get("start"), e.get("end")) for e in entities]


def pixels_of(file: Path) -> "Pixels":
    """The pixels (H, W, 3) of a picture file."""
    from PIL import Image

    from rapid_diffusion.images.convert import pillow_to_pixels

    with Image.open(file) as picture:
        return pillow_to_pixels([picture])[0]


def difference(one: "Pixels", two: "Pixels") -> dict[str, Any]:
    """The largest difference in levels of 255, and the share of values that differ at all."""
    if one.shape != two.shape:
        raise InvalidRequestError(
            "file", f"{one.shape[1]}x{one.shape[0]} pixels; {two.shape[1]}x{two.shape[0]} are drawn"
        )
    levels = abs(one.astype("int16") - two.astype("int16"))
    return {
        "largest_difference": int(levels.max()),
        "share_different": round(float((levels > 0).mean()), 6),
    }


def _as_text(report: Mapping[str, Any]) -> str:
    lines = [f"{report['file']}: {'the same pixels' if report['same'] else 'other pixels'}"]
    if report["largest_difference"]:
        lines.append(
            f"  {report['share_different']:.2%} of the values differ, by at most "
            f"{report['largest_difference']} of 255 levels"
        )
    lines += [
        f"  {name} was {change['then']}, is {change['now']}"
        for name, change in report["changed"].items()
    ]
    return "\n".join(lines)
