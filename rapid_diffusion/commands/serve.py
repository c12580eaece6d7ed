"""`rapid-diffusion serve`: the HTTP service; only this command knows the room `server`."""

from typing import Annotated, Any

import typer

from rapid_diffusion.errors import InvalidRequestError, MissingDependencyError


def serve(
    model: Annotated[
        str | None, typer.Argument(help="Name of a shipped model, or a model folder.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 …")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the model.")] = None,
    rows: Annotated[
        str | None, typer.Option(help="Rows of each call of the UNet, a number or fit.")
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(help="What `rapid-diffusion compile` wrote: its folder, or auto."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="An adapter folder, and what requests call it."),
    ] = None,
    graph: Annotated[
        str | None, typer.Option(help="A graph to link to instead of the model's own.")
    ] = None,
    word_list: Annotated[
        str | None, typer.Option(help="File of terms that no prompt may hold, one a line.")
    ] = None,
    picture_check: Annotated[
        bool | None, typer.Option("--picture-check", help="Look at pictures before delivery.")
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option(help="A second port, on the loopback, for operators.")
    ] = None,
    state: Annotated[
        str | None, typer.Option(help="Folder of jobs and their results; without it, no jobs.")
    ] = None,
) -> None:
    """Answer POST /generate until SIGTERM or Ctrl-C; what was accepted is finished first.

    Every setting has an environment variable, RAPID_DIFFUSION_PORT for one; an option wins over it.
    """
    try:
        from server.main import run
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the service needs {error.name}, which is not installed:"
            " pip install 'rapid-diffusion[server]'"
        ) from error
    given: dict[str, Any] = {"model": model, "host": host, "port": port}
    given |= {"device": device, "threads": threads, "rows": rows, "state": state}
    given |= {"artifacts": artifacts}
    given |= {"graph": graph, "admin_port": admin_port, "word_list": word_list}
    given |= {"picture_check": picture_check}
    if adapter:
        given["adapters"] = dict(map(_named_path, adapter))
    run(_settings({name: value for name, value in given.items() if value is not None}))


def _named_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InvalidRequestError("adapter", f"{text!r}; allowed: NAME=PATH")
    return name, path


def _settings(given: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    from server.settings import Settings

    try:
        return Settings(**given)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors()]
        raise InvalidRequestError("settings", "; ".join(problems)) from error
