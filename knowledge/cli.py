"""`python -m knowledge`: build, train, link, verify, activate, bench.

Data to stdout, lines of fields with tabs between them, or with `--json` one JSON value on one line.
Logs to stderr.

Exit status: 0 done; 1 refused, with the reason on stderr; 2 the command line was not understood.
"""

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from knowledge.builder import BuildOptions, build_from_file
from knowledge.carrying import carry_vectors
from knowledge.errors import KnowledgeError
from knowledge.formats import FORMATS
from knowledge.graph import KnowledgeGraph
from knowledge.linking import Link, Reading
from knowledge.training import train_version
from knowledge.versions import activate, check_version, resolve

_logger = logging.getLogger("knowledge")
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.run
    try:
        command(options)
    except KnowledgeError as error:
        _logger.error("error: %s", error)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m knowledge", description="Knowledge graphs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_build(commands)
    _add_train(commands)
    link = _added(commands, "link", _link, "find the entities of a sentence")
    link.add_argument("path", type=Path, metavar="DIR")
    link.add_argument("text", metavar="TEXT")
    link.add_argument("--max-entities", type=int, default=10)
    verify = _added(commands, "verify", _verify, "check every byte of a version")
    verify.add_argument("path", type=Path, metavar="DIR")
    switch = _added(commands, "activate", _activate, "let CURRENT name a version")
    switch.add_argument("path", type=Path, metavar="DIR")
    switch.add_argument("version", metavar="VERSION")
    bench = _added(commands, "bench", _bench, "time every call on a graph, in this machine's terms")
    bench.add_argument("path", type=Path, metavar="DIR")
    return parser


def _added(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], None], text: str
) -> argparse.ArgumentParser:
    """A command that does `run`."""
    parser = commands.add_parser(name, help=text)
    parser.add_argument("--json", action="store_true", help="one JSON value instead of lines")
    parser.set_defaults(run=run)
    return parser


def _add_build(commands: Commands) -> None:
    build = _added(commands, "build", _build, "build a version from a file of facts")
    build.add_argument("input", type=Path, metavar="INPUT")
    build.add_argument("--format", choices=sorted(FORMATS), required=True)
    build.add_argument("--out", type=Path, required=True, metavar="DIR")
    build.add_argument(
        "--objects",
        choices=["all", "subjects"],
        default="subjects",
        help="which objects are entities: all, or those that are subjects too (default)",
    )
    build.add_argument(
        "--keep-vectors",
        action="store_true",
        help="take over the vectors that the store's CURRENT version has; new entities get theirs "
        "from their facts",
    )
    build.add_argument("--no-activate", action="store_true", help="leave CURRENT as it is")


def _add_train(commands: Commands) -> None:
    train = _added(commands, "train", _train, "train entity vectors into a new version")
    train.add_argument("path", type=Path, metavar="DIR")
    train.add_argument("--dimension", type=int, default=128)
    train.add_argument("--epochs", type=int, default=100)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="cpu", help="cpu (default), cuda, ...")
    train.add_argument("--precision", choices=["float32", "float16"], default="float32")


def _build(options: argparse.Namespace) -> None:
    activates = not options.no_activate
    older = resolve(options.out) if options.keep_vectors else None
    how = BuildOptions(objects=options.objects, activate=activates and older is None)
    with tqdm(total=1.0, disable=None, bar_format="{desc} {percentage:3.0f} % {bar}") as bar:

        def progress(stage: str, part: float) -> None:
            bar.set_description_str(stage, refresh=False)
            bar.n = part
            bar.refresh()

        version = build_from_file(
            options.input, options.format, options.out, options=how, progress=progress
        )
    refused = version
    if older is not None:
        version = carry_vectors(version, older, activate=activates)
    stats = check_version(version).stats
    for reason, count in stats["refused"].items():
        _logger.warning("refused %d: %s", count, reason)
    if stats["refused"]:
        _logger.warning("the first lines of each: %s.refused.jsonl", refused)
    _print({"version": version.name, "path": str(version), "stats": stats}, options)


def _train(options: argparse.Namespace) -> None:
    from knowledge.transe import TransEConfig  # torch only where it is used

    def progress(epoch: int, loss: float) -> None:
        if epoch % 10 == 0 or epoch == options.epochs:
            _logger.info("epoch %d of %d, loss %.4f", epoch, options.epochs, loss)

    config = TransEConfig(
        options.dimension,
        options.epochs,
        seed=options.seed,
        precision=options.precision,
        device=options.device,
    )
    version = train_version(options.path, config, progress=progress)
    _print({"version": version.name, "path": str(version)}, options)


def _link(options: argparse.Namespace) -> None:
    reading = KnowledgeGraph.open(options.path).read(options.text, options.max_entities)
    if options.json:
        _print_json([dataclasses.asdict(link) for link in reading.links])
    else:
        _explain(options.text, reading)
        _print_lines(reading.links)


def _verify(options: argparse.Namespace) -> None:
    graph = KnowledgeGraph.open(options.path, verify="full")
    _print({"version": graph.version, "path": str(graph.path), "intact": True}, options)


def _activate(options: argparse.Namespace) -> None:
    _print({"version": activate(options.path, options.version).name}, options)


def _bench(options: argparse.Namespace) -> None:
    from knowledge.bench import measure

    _print(measure(options.path), options)


def _explain(text: str, reading: Reading) -> None:
    """On stderr, for the eye: the sentence with its entities marked, then what each might mean,
    then the names that stand for nothing here, with why.
    """
    marked, end = [], 0
    for link in reading.links:
        marked.append(f"{text[end : link.start]}【{link.surface}】")
        end = link.end
    _logger.info("%s", "".join(marked) + text[end:])
    for link in reading.links:
        for candidate in link.candidates:
            sign = "*" if candidate.entity == link.entity else " "
            score = f"score {link.score:.3f}" if sign == "*" else ""
            _logger.info(" %s %s  prior %.3f  %s", sign, candidate.key, candidate.prior, score)

    for name in reading.unlinked:
        keys = ", ".join(candidate.key for candidate in name.candidates)
        _logger.info(" ? %s is no link (%s): %s", name.surface, name.reason, keys)


def _print_lines(links: Sequence[Link]) -> None:
    for link in links:
        fields = (link.start, link.end, link.surface, link.key, f"{link.score:.3f}")
        sys.stdout.write("\t".join(map(str, fields)) + "\n")


def _print(value: dict[str, Any], options: argparse.Namespace) -> None:
    """As JSON, or a line for each number in it."""
    if options.json:
        _print_json(value)
    else:
        sys.stdout.writelines(_lines(value))


def _lines(value: dict[str, Any], *above: str) -> Iterator[str]:
    for name, found in value.items():
        if isinstance(found, dict):
            yield from _lines(found, *above, name)
        else:
            yield f"{'.'.join([*above, name])}\t{found}\n"


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
