"""One report of one model, perhaps against another: drawn, measured, written as HTML and JSON."""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.evaluation.clip_score import clip_score
from rapid_diffusion.evaluation.copying import diversity, nearest
from rapid_diffusion.evaluation.distances import distances
from rapid_diffusion.evaluation.drawings import SHOWN, Draftsman
from rapid_diffusion.evaluation.evidence import Evidence, Plan, Section, make_plan
from rapid_diffusion.evaluation.page import render_page
from rapid_diffusion.evaluation.recognised import WORDS, entity_types, knowledge, retrieval
from rapid_diffusion.evaluation.report import Recognition
from rapid_diffusion.evaluation.speed import speed
from rapid_diffusion.files import make_writable, replacing
from rapid_diffusion.images.convert import Pixels, unit_to_pixels
from rapid_diffusion.images.label import generation_text
from rapid_diffusion.images.saving import encode_picture
from rapid_diffusion.pipeline import RapidDiffusionPipeline

SEEDS, PICTURES = 3, 100
#: Pixels are compared at most at this size: larger ones tell no more about copies.
COMPARED = 64
FORMAT = 1

Pipelines = dict[str, RapidDiffusionPipeline]


def run(
    model: str | Path,
    data: Path,
    out: Path,
    *,
    against: str | Path | None = None,
    seeds: int = SEEDS,
    pictures: int = PICTURES,
) -> dict[str, Any]:
    """Measure, write `out/report.json` and `out/report.html`, and return what the JSON holds.

    At most `pictures` prompts a section, each with `seeds` seeds. Raises `InvalidRequestError`,
    `CheckpointError` (a model or the data), `MissingDependencyError` (the judge), `OutputError`.
    """
    for name, value in (("seeds", seeds), ("pictures", pictures)):
        if value < 1:
            raise InvalidRequestError(name, f"{value}; allowed: 1 or more")
    make_writable(out, "--out")
    pipelines = {"model": RapidDiffusionPipeline.from_pretrained(model)}
    if against is not None:
        pipelines["against"] = RapidDiffusionPipeline.from_pretrained(against)
    recognition = Recognition(data)
    plan = make_plan(recognition, seeds, pictures)
    evidence = draw_all(pipelines, recognition, plan)
    report = {
        "format": FORMAT,
        "models": {name: _model_facts(pipeline) for name, pipeline in pipelines.items()},
        "data": _data_facts(recognition, data),
        "settings": {
            "seeds": seeds,
            "pictures": pictures,
            "judge": "EfficientNet-Lite0 (ImageNet)",
        },
        "sections": {name: _as_dict(part) for name, part in _sections(pipelines, evidence).items()},
        "pictures": [
            {"prompt": prompt.text, "seed": task.seed, "of": WORDS[name]}
            for name, prompt, task in plan.shown()
        ],
    }
    write_report(out, report, render_page(report, _pictures(evidence, pipelines)))
    return report


def draw_all(pipelines: Pipelines, recognition: Recognition, plan: Plan) -> Evidence:
    """Every picture of the plan, by each model."""
    scorer = next((pipe for pipe in pipelines.values() if pipe.model.pair is not None), None)
    height, width = pipelines["model"].sizes[0]
    size = (min(height, COMPARED), min(width, COMPARED))
    shown = {task for _, _, task in plan.shown()}
    draftsman = Draftsman(recognition.judge, scorer, size, shown)
    drawn = {name: draftsman.draw(pipe, plan.tasks()) for name, pipe in pipelines.items()}
    return Evidence(recognition, plan, drawn["model"], drawn.get("against"), scorer, size)


def write_report(out: Path, report: Mapping[str, Any], page: str) -> None:
    """Both files whole, or neither: they take their names only when both are written."""
    text = json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    with replacing(out / "report.json") as data, replacing(out / "report.html") as shown:
        data.write_text(text, encoding="utf-8")
        shown.write_text(page, encoding="utf-8")


def _sections(pipelines: Pipelines, evidence: Evidence) -> dict[str, Section]:
    graphs = any(pipeline.graph is not None for pipeline in pipelines.values())
    return {
        "retrieval": retrieval(evidence),
        "distances": distances(evidence),
        "clip_score": clip_score(evidence),
        "knowledge": knowledge(evidence, graphs),
        "entity_types": entity_types(evidence),
        "diversity": diversity(evidence),
        "nearest": nearest(evidence),
        "speed": speed(pipelines, evidence.plan.tasks()[0].prompt),
    }


def _as_dict(section: Section) -> dict[str, Any]:
    values = asdict(section)
    if not section.missing:
        del values["missing"]
    return values


def _model_facts(pipeline: RapidDiffusionPipeline) -> dict[str, Any]:
    graph = pipeline.graph
    return {
        "name": pipeline.name,
        "digest": pipeline.digest,
        "parameters": pipeline.default_parameters,
        "knowledge": None if graph is None else graph.version,
        "image_tower": pipeline.model.pair is not None,
    }


def _data_facts(recognition: Recognition, data: Path) -> dict[str, Any]:
    rows = recognition.rows
    return {
        "folder": data.name,
        "pictures": recognition.real.total,
        "judged": len(rows),
        "held_out": sum(row.get("split") == "held_out" for row in rows),
        "concepts": len(recognition.among),
    }


def _pictures(evidence: Evidence, pipelines: Pipelines) -> list[dict[str, str]]:
    """Data URIs for every set of pictures side by side."""
    found = []
    for _, prompt, task in evidence.plan.shown():
        uris = {}
        for name, drawings in evidence.drawings.items():
            pipe = pipelines[name]
            facts = {"prompt": task.prompt, "seed": task.seed, "model": pipe.name}
            uris[name] = _uri(drawings.shown[task], generation_text(facts))
        real = evidence.recognition.real.unit([prompt.row], (SHOWN, SHOWN))
        found.append(uris | {"real": _uri(unit_to_pixels(real)[0], None)})
    return found


def _uri(pixels: Pixels, text: Mapping[str, str] | None) -> str:
    content = encode_picture(pixels, ".webp", text)
    return "data:image/webp;base64," + base64.b64encode(content).decode("ascii")
