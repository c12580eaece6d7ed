"""`rapid-diffusion distil`: from a trained model one that draws in few steps."""

import json
from pathlib import Path
from typing import Annotated

import typer

from rapid_diffusion.commands.options import Resume


def distil(
    model: Annotated[str, typer.Argument(help="The teacher: a shipped model, or a model folder.")],
    data: Annotated[
        Path, typer.Option(help="The folder a training reads: its pictures and sentences teach.")
    ],
    out: Annotated[Path, typer.Option(help="The student's folder.")],
    config: Annotated[
        Path | None, typer.Option(help="A TOML file; see docs/distil.md. Optional.")
    ] = None,
    steps: Annotated[int, typer.Option(help="How many steps the student takes, 1 to 8.")] = 4,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="Write only what differs from the teacher, which must stay beside the student.",
        ),
    ] = False,
    resume: Resume = True,
) -> None:
    """Teach a student to draw in few steps, without guidance, what a model draws in many.

    Prints the student's card as JSON. Killed at any moment, the same command goes on.
    """
    from rapid_diffusion.training.distil import run

    card = run(model, data, out, config, steps=steps, shared=shared, resume=resume)
    typer.echo(json.dumps(card, ensure_ascii=False, indent=2))
