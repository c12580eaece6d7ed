"""`rapid-diffusion compile`: a model's networks as native code, made once, loaded in no time."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer


def compile_model(
    model: Annotated[
        str, typer.Argument(help="Name of a shipped model, or a model folder.")
    ] = "emoji-zh",
    rows: Annotated[
        list[int] | None,
        typer.Option(help="Rows of a call of the UNet (2 a guided picture); may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; by default where --artifacts auto looks.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="outside (adapters go on working), or folded (the fastest).")
    ] = "outside",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …")] = None,
) -> None:
    """Compile a model for this machine, for `--artifacts` of generate, serve and verify.

    Takes minutes and a C++ compiler. Prints the folder. What it holds is native code for this very
    kind of processor and this version of torch; elsewhere it is refused.
    """
    from rapid_diffusion import RapidDiffusionPipeline
    from rapid_diffusion.artifacts.building import write_artifacts
    from rapid_diffusion.artifacts.identity import checked_place, default_folder, made_for
    from rapid_diffusion.denoising.engine import FIT_LIMIT
    from rapid_diffusion.files import make_writable

    place = checked_place(weights)
    pipe = RapidDiffusionPipeline.from_pretrained(model, device=device, knowledge=False)
    assert pipe.folder is not None
    dtype = next(pipe.model.denoiser.parameters()).dtype
    made = made_for(pipe.folder, pipe.device, dtype, place)
    folder = default_folder(pipe.name, made) if out is None else out.absolute()
    make_writable(folder.parent, "--out")
    default = 2 if pipe.device.type == "cpu" else FIT_LIMIT
    write_artifacts(pipe.model, made, folder, rows or [default], partial(typer.echo, err=True))
    typer.echo(folder)
