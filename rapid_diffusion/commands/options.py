"""Options that several commands have."""

from typing import Annotated

import typer

Resume = Annotated[
    bool, typer.Option("--resume/--fresh", help="Go on from the last checkpoint, or start over.")
]
