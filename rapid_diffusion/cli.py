"""`rapid-diffusion generate | train | finetune | distil | teach | data | evaluate | serve | …`.

Data goes to stdout, log lines and progress bars to stderr. An error is one line on stderr and an
exit code of `EXIT_CODES`.
"""

import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from rapid_diffusion.commands.compile import compile_model
from rapid_diffusion.commands.data import data
from rapid_diffusion.commands.distil import distil
from rapid_diffusion.commands.doctor import doctor
from rapid_diffusion.commands.evaluate import evaluate
from rapid_diffusion.commands.finetune import finetune
from rapid_diffusion.commands.generate import generate
from rapid_diffusion.commands.inspect import inspect
from rapid_diffusion.commands.serve import serve
from rapid_diffusion.commands.teach import teach
from rapid_diffusion.commands.train import train
from rapid_diffusion.commands.verify import verify
from rapid_diffusion.errors import CanceledError, CheckpointError, InvalidRequestError, OutputError

OK, FAILED, INVALID, BAD_MODEL, BAD_OUTPUT, INTERRUPTED = 0, 1, 2, 3, 4, 130
EXIT_CODES: dict[type[BaseException], int] = {
    InvalidRequestError: INVALID,
    CheckpointError: BAD_MODEL,
    OutputError: BAD_OUTPUT,
    CanceledError: INTERRUPTED,
    KeyboardInterrupt: INTERRUPTED,
}
EPILOG = (
    "Exit codes: 0 done; 2 wrong usage or an invalid request; 3 a model or checkpoint that is"
    " missing or damaged; 4 the output could not be written; 130 interrupted; 1 anything else."
)

app = typer.Typer(
    name="rapid-diffusion",
    help="Pictures from Chinese sentences.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (generate, train, finetune, distil, teach, evaluate, serve, inspect, verify, doctor):
    app.command(epilog=EPILOG)(command)
app.command("compile", epilog=EPILOG)(compile_model)
app.add_typer(data, name="data")


@app.callback()
def common(
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, and debug log lines.")
    ] = False,
) -> None:
    """Pictures from Chinese sentences."""
    context.obj["debug"] = debug
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        stream=sys.stderr,
        format="%(levelname)s %(name)s: %(message)s",
    )


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # JSON is UTF-8 wherever it is printed; the bytes of a file's name come out as they were.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    code = run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or FAILED
        # Or the interpreter flushes once more on its way out, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with `arguments` (the process's own when None); the exit code."""
    settings = {"debug": False}
    try:
        app(args=arguments, prog_name="rapid-diffusion", obj=settings)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else OK if left.code is None else FAILED
    except (Exception, KeyboardInterrupt) as error:
        if settings["debug"]:
            logging.getLogger(__name__).exception("failed")
        sys.stderr.write(f"rapid-diffusion: {describe(error)}\n")
        return exit_code(error)
    return OK


def exit_code(error: BaseException) -> int:
    """The exit code that says what kind of thing `error` is."""
    from knowledge.errors import BuildError, VersionError

    # A graph is part of a model: what is wrong with it on disk is wrong with the model.
    table = {**EXIT_CODES, VersionError: BAD_MODEL, BuildError: BAD_OUTPUT}
    return next((code for kind, code in table.items() if isinstance(error, kind)), FAILED)


def describe(error: BaseException) -> str:
    """One line about `error`; one that nobody raised on purpose is named as such."""
    from knowledge.errors import KnowledgeError
    from rapid_diffusion.errors import RapidDiffusionError

    line = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt | CanceledError):
        return line or "interrupted"
    if isinstance(error, RapidDiffusionError | KnowledgeError):
        return line
    kind = type(error).__name__
    return f"unexpected {kind}: {line} (`rapid-diffusion --debug …` shows the traceback)"


if __name__ == "__main__":
    main()
