"""`rapid-diffusion teach`: sentences that a model shall understand, by what they mean."""

import json
from pathlib import Path
from typing import Annotated

import typer

from rapid_diffusion.commands.options import Resume


def teach(
    model: Annotated[str, typer.Argument(help="A shipped model, or a model folder.")],
    sentences: Annotated[
        Path, typer.Option(help="Lines of JSON: `sentence`, `means`, perhaps `entity`.")
    ],
    out: Annotated[Path, typer.Option(help="The folder of the model that has learned them.")],
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with [loops.teach]. Optional.")
    ] = None,
    resume: Resume = True,
) -> None:
    """Teach a model sentences as people type them, by what they mean in words it knows.

    Only its text tower learns; what it draws of sentences that it knows stays. Prints what was
    learned as JSON. Killed at any moment, the same command goes on.
    """
    from rapid_diffusion.training.teach import run

    report = run(model, sentences, out, config, resume=resume)
    typer.echo(json.dumps(report, ensure_ascii=False, indent=2))
