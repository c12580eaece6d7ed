"""`rapid-diffusion data check | prepare`: look at a data set, make a training folder of it."""

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rapid_diffusion.errors import OutputError

if TYPE_CHECKING:
    from rapid_diffusion.datasets.checking import Report, Spread

SHOWN = 20
SOMETHING_BROKEN = 3

data = typer.Typer(
    help="Check a data set, or prepare it for training.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
PathArgument = Annotated[
    str,
    typer.Argument(
        metavar="PATH", help="A folder, a file, or a pattern of shards like 'train-{000..099}.tar'."
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="folder, prepared, tsv, pair, webdataset or parquet; recognised if left out.",
    ),
]


@data.command(epilog="Exit codes: 0 nothing is broken; 2 wrong usage; 3 something is broken.")
def check(
    path: PathArgument,
    file_format: FormatOption = None,
    graph: Annotated[
        Path | None, typer.Option(help="A knowledge graph: which captions does it know?")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the training's pictures.", min=1)] = 64,
    max_length: Annotated[
        int, typer.Option(help="Pieces the text encoder reads; [text] max_length.", min=3)
    ] = 32,
    broken: Annotated[
        Path | None, typer.Option(help="Write every broken row to this file, as JSON lines.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Read every row; count what is there, name what is broken."""
    from tqdm import tqdm

    from knowledge.graph import KnowledgeGraph
    from rapid_diffusion.datasets import checking
    from rapid_diffusion.datasets.formats import open_rows
    from rapid_diffusion.datasets.rows import Problem

    knowledge = KnowledgeGraph.open(graph) if graph else None
    rows = open_rows(path, file_format)
    with ExitStack() as stack:
        listed = stack.enter_context(_opened(broken)) if broken else None

        def note(problem: Problem) -> None:
            if listed is not None:
                listed.write(json.dumps(dataclasses.asdict(problem), ensure_ascii=False) + "\n")

        shown = tqdm(rows, desc="rows", unit="row", disable=None)
        limits = checking.Limits(size, max_length)
        report = checking.check(shown, limits, knowledge, note)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(report), ensure_ascii=False, indent=2))
    else:
        typer.echo("\n".join(report_lines(path, report)))
    if report.broken or not report.rows:
        raise typer.Exit(SOMETHING_BROKEN)


@data.command()
def prepare(
    path: PathArgument,
    out: Annotated[Path, typer.Option(help="The folder to make; it must not exist.")],
    file_format: FormatOption = None,
    size: Annotated[int, typer.Option(help="Side of the pictures the model draws.")] = 64,
    large_size: Annotated[int, typer.Option(help="Side the upscaler aims at.")] = 256,
    graph: Annotated[
        Path | None, typer.Option(help="The knowledge graph; it is copied into the folder.")
    ] = None,
    triples: Annotated[
        Path | None, typer.Option(help="Or facts to build one from: .jsonl, or OwnThink .csv.")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of rows that training never sees.")] = 0.05,
) -> None:
    """Make the folder that a training reads, whole or not at all; name the rows refused."""
    from tqdm import tqdm

    from rapid_diffusion.datasets import preparing
    from rapid_diffusion.datasets.formats import open_rows

    options = preparing.PrepareOptions(size, large_size, held_out, graph, triples)
    rows = tqdm(open_rows(path, file_format), desc="rows", unit="row", disable=None)
    done = preparing.prepare(rows, out, options)
    typer.echo(f"{done.train} rows to train on, {done.held_out} held out, in {out}")
    typer.echo("for the training's configuration:")
    typer.echo(f'[data]\nfolder = "{out}"\npictures = "pictures_{size}.npy"')
    typer.echo(f'large_pictures = "pictures_{large_size}.npy"')
    if done.refused:
        typer.echo(f"{done.refused} rows refused; {out / preparing.REFUSED} names them")
    if graph is None and triples is None:
        typer.echo("no graph: a training needs one; prepare again with --graph or --triples")


def _opened(path: Path) -> Any:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error


def report_lines(path: str, report: "Report") -> list[str]:
    """The report as a person reads it."""
    lines = [
        f"{path}",
        f"  rows             {report.rows} sound, {report.broken} broken",
        f"  shorter side     {_spread(report.shorter_side, 'px')}",
        f"  longer side      {_spread(report.longer_side, 'px')}",
        f"  too small        {_share(report.below_training_size, report.rows)} of the pictures are"
        f" smaller than {report.training_size} px and would be enlarged",
        f"  doubles          {report.same_file} the same file, {report.same_pixels} the same pixels"
        " in another file",
        f"  captions         {report.captions}; {_spread(report.caption_length, 'pieces')}",
        f"  cut off          {_share(report.cut_captions, report.captions)} are longer than the"
        f" {report.caption_limit} pieces the encoder reads (one a character, and two ends)",
    ]
    if report.linked_captions is not None:
        share = _share(report.linked_captions, report.captions)
        lines.append(f"  linked           {share} of the captions name an entity of the graph")
        words = "  ".join(f"{word} ({count})" for word, count in report.unlinked_words or ())
        lines.append(f"  link to nothing  {words or 'no frequent word'}")
    return lines + _doubles(report) + _broken(report)


def _doubles(report: "Report") -> list[str]:
    if not report.doubles:
        return []
    shown = [f"  {where}  is  {earlier}" for where, earlier in report.doubles[:SHOWN]]
    return ["", "doubles", *shown, *_more(report.same_file + report.same_pixels, len(shown))]


def _broken(report: "Report") -> list[str]:
    if not report.broken:
        return ["", "nothing is broken"]
    kinds = [f"  {count:6d}  {reason}" for reason, count in report.reasons.items()]
    shown = [f"  {item.where}: {item.reason}" for item in report.broken_rows[:SHOWN]]
    more = _more(report.broken, len(shown), "; --broken FILE writes them all")
    return ["", "broken, by reason", *kinds, "", "broken rows", *shown, *more]


def _more(count: int, shown: int, hint: str = "") -> list[str]:
    return [f"  … and {count - shown} more{hint}"] if count > shown else []


def _spread(spread: "Spread | None", unit: str) -> str:
    if spread is None:
        return "none"
    return f"{spread.least} to {spread.most} {unit}, median {spread.median}"


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / whole:.1f} %)" if whole else "0"
