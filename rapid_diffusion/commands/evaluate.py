"""`rapid-diffusion evaluate`: the numbers of a model on a data set, as one page."""

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="Name of a shipped model, or a model folder.")],
    data: Annotated[Path, typer.Option(help="The folder a training reads.", exists=True)],
    out: Annotated[Path, typer.Option(help="Folder for report.html and report.json.")],
    against: Annotated[
        str | None, typer.Option(help="A second model, for every table and the differences.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Pictures a prompt.", min=1)] = 3,
    pictures: Annotated[int, typer.Option(help="At most so many prompts a section.", min=1)] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure a model on a data set: quality, knowledge, copying, speed.

    Writes report.html and report.json below --out, both or neither, and prints their names.
    """
    from rapid_diffusion.evaluation import run

    report = run(model, data, out, against=against, seeds=seeds, pictures=pictures)
    if as_json:
        typer.echo(json.dumps(report, ensure_ascii=False, indent=2))
        return
    for name in ("report.html", "report.json"):
        typer.echo(out / name)
