"""`rapid-diffusion train`: every stage of a recipe, or one; goes on where it was stopped."""

from pathlib import Path
from typing import Annotated

import typer

from rapid_diffusion.commands.options import Resume


def train(
    config: Annotated[Path, typer.Argument(help="The recipe's TOML file.", exists=True)],
    stage: Annotated[
        str | None, typer.Option(help="One stage only; all in order if left out.")
    ] = None,
    resume: Resume = True,
    processes: Annotated[
        int, typer.Option(min=1, help="Split each batch over this many processes (accelerate).")
    ] = 1,
) -> None:
    """Train a model, stage by stage. Killed at any moment, the same command goes on."""
    if processes > 1:
        from rapid_diffusion.training.launch import launch

        raise typer.Exit(launch(processes, config, stage, resume=resume))
    from rapid_diffusion.training.run import run

    run(config, stage, resume=resume)
