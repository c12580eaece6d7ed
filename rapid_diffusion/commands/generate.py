"""`rapid-diffusion generate`: sentences in, picture files out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rapid_diffusion.commands.output import prepare_output

if TYPE_CHECKING:
    from knowledge.linking import Link
    from rapid_diffusion import GenerationResult, RapidDiffusionPipeline


OutputOption = Annotated[
    Path,
    typer.Option(
        "-o", "--output", help="FILE.png (.jpg, .webp) for one picture, a folder for several."
    ),
]
CandidatesOption = Annotated[
    int, typer.Option(help="Draw each picture so many times and keep the best match.", min=1)
]
ArtifactsOption = Annotated[
    str | None,
    typer.Option(
        help="What `rapid-diffusion compile` wrote: its folder, or auto. It is executed: trust it."
    ),
]
GraphOption = Annotated[
    Path | None,
    typer.Option(help="A graph to link to instead of the model's own (`python -m knowledge`)."),
]
AdapterOption = Annotated[
    Path | None, typer.Option(help="An adapter folder that was trained on this model.")
]
ScaleOption = Annotated[
    float | None, typer.Option(help="How strongly the adapter counts: 0 to 2; 1 if left out.")
]
KnowledgeOption = Annotated[
    bool, typer.Option("--knowledge/--no-knowledge", help="Use the knowledge graph.")
]


def generate(
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT", help="Chinese sentences.")],
    output: OutputOption,
    model: Annotated[
        str, typer.Option(help="Name of a shipped model, or a model folder.")
    ] = "emoji-zh",
    seed: Annotated[
        int | None, typer.Option(help="Seed of the first picture; the others count on from it.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; 1 is none.")] = None,
    negative: Annotated[str | None, typer.Option(help="What should not be drawn.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Sampler, such as dpmpp_2m.")] = None,
    upscale: Annotated[
        int | None, typer.Option(help="Enlarge the drawing: 1, or the upscaler's factor.")
    ] = None,
    count: Annotated[int, typer.Option(help="Pictures per prompt.", min=1)] = 1,
    candidates: CandidatesOption = 1,
    adapter: AdapterOption = None,
    adapter_scale: ScaleOption = None,
    graph: GraphOption = None,
    artifacts: ArtifactsOption = None,
    knowledge: KnowledgeOption = True,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON a picture.")] = False,
) -> None:
    """Draw pictures from Chinese sentences.

    Prints the name of every file, or facts about it with --json (`seconds` is what the batch took
    that it was drawn in). What a file held before is replaced as a whole or not at all.
    """
    from rapid_diffusion import RapidDiffusionPipeline
    from rapid_diffusion.request import check_prompt, seeds_for

    # All that can be known to be wrong is said before the model is loaded.
    sentences = [check_prompt("prompt", prompt) for prompt in prompts for _ in range(count)]
    seeds = seeds_for(seed, len(sentences))
    place = prepare_output(output, len(sentences))
    parameters: dict[str, Any] = {
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "negative_prompt": negative,
        "scheduler": scheduler,
        "upscale": upscale,
        "num_candidates": candidates,
        "knowledge": knowledge,
        "adapter_scale": adapter_scale,
    }
    pipe = RapidDiffusionPipeline.from_pretrained(model, knowledge=graph, artifacts=artifacts)
    if adapter is not None:
        parameters["adapter"] = pipe.load_adapter(adapter)
    rows = [{"prompt": s, "seed": n} for s, n in zip(sentences, seeds, strict=True)]
    for index, (row, result) in enumerate(_render(pipe, rows, parameters)):
        row |= _chosen(result)
        file = place.file(index, row["seed"])
        _save(file, {**row, "entities": "auto" if knowledge else "off"}, result, pipe)
        _warn(file, result)
        typer.echo(json.dumps(_facts(file, row, result), ensure_ascii=False) if as_json else file)


def _render(
    pipe: "RapidDiffusionPipeline", rows: list[dict[str, Any]], parameters: dict[str, Any]
) -> "Iterator[tuple[dict[str, Any], GenerationResult]]":
    from tqdm import tqdm

    with tqdm(total=len(rows), unit="picture", disable=None) as bar:

        def show_step(step: int, steps: int, _latents: Any) -> None:
            bar.set_postfix_str(f"step {step + 1}/{steps}")

        results = pipe.render(rows, callback_on_step_end=show_step, **parameters)
        for row, result in zip(rows, results, strict=True):
            yield row, result
            bar.update()


def _chosen(result: "GenerationResult") -> dict[str, Any]:
    """The seed that draws the picture again alone, and what it was chosen from if anything."""
    seed = {"seed": result.seeds[0]}
    return seed | {"candidates": result.candidates[0].as_dict()} if result.candidates else seed


def _save(
    file: Path, row: dict[str, Any], result: "GenerationResult", pipe: "RapidDiffusionPipeline"
) -> None:
    from rapid_diffusion.images.label import generation_text
    from rapid_diffusion.images.saving import save_image

    made_by = pipe.origin
    if adapter := result.parameters.get("adapter"):
        made_by["adapter_digest"] = pipe.adapters[adapter].digest
    save_image(file, result.images[0], generation_text({**row, **result.parameters, **made_by}))


def _warn(file: Path, result: "GenerationResult") -> None:
    if result.unknown[0]:
        typer.echo(
            f"{file}: the model does not know {' '.join(result.unknown[0])}; say it in other words",
            err=True,
        )


def _facts(file: Path, row: dict[str, Any], result: "GenerationResult") -> dict[str, Any]:
    return {
        "file": str(file),
        **row,
        "links": [_link_facts(link) for link in result.links[0]],
        "size": list(result.images[0].size),
        "seconds": round(sum(result.timings.values()), 3),
        "truncated": result.truncated[0],
        "unknown": result.unknown[0],
    }


def _link_facts(link: "Link") -> dict[str, Any]:
    facts = {name: getattr(link, name) for name in ("surface", "start", "end", "key", "name")}
    return {**facts, "score": round(float(link.score), 4)}
