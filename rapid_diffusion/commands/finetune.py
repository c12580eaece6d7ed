"""`rapid-diffusion finetune`: a model goes on learning from new pictures."""

import json
from pathlib import Path
from typing import Annotated

import typer

from rapid_diffusion.commands.options import Resume


def finetune(
    config: Annotated[Path, typer.Argument(help="The TOML file; see docs/fine-tune.md.")],
    resume: Resume = True,
) -> None:
    """Fine-tune a model: all of it, a LoRA, or its text tower only.

    Prints the report as JSON: the loss on the new and on the old domain, before and after. Killed
    at any moment, the same command goes on.
    """
    from rapid_diffusion.training.finetune import run

    typer.echo(json.dumps(run(config, resume=resume), ensure_ascii=False, indent=2))
