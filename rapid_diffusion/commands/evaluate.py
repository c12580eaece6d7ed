"""`rapid-diffusion evaluate`: the numbers of a model on a data set."""

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(help="Name of a shipped model, or a model folder.")],
    data: Annotated[Path, typer.Option(help="The recipe's data folder.", exists=True)],
    out: Annotated[Path, typer.Option(help="Folder for the report.")],
    seeds: Annotated[int, typer.Option(help="Pictures a prompt.", min=1)] = 4,
) -> None:
    """Measure a model on a data set; prints the report as JSON and writes it below --out."""
    from rapid_diffusion.evaluation import run

    report = run(model, data, out, seeds)
    typer.echo(json.dumps(report, ensure_ascii=False, indent=2))
