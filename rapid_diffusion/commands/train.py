"""`rapid-diffusion train`: every stage of a recipe, or one; goes on where it was stopped."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(help="The recipe's TOML file.", exists=True)],
    stage: Annotated[
        str | None, typer.Option(help="One stage only; all in order if left out.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--fresh", help="Go on from the last checkpoint, or start over."),
    ] = True,
) -> None:
    """Train a model, stage by stage. Killed at any moment, the same command goes on."""
    from rapid_diffusion.training.run import run

    run(config, stage, resume=resume)
