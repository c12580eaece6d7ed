"""`python -m knowledge`: build, train, link, verify, activate. Data to stdout, logs to stderr.

Exit status: 0 done; 1 refused, with the reason on stderr; 2 the command line was not understood.
"""

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from knowledge.builder import BuildOptions, build_from_file
from knowledge.errors import KnowledgeError
from knowledge.formats import FORMATS
from knowledge.graph import KnowledgeGraph
from knowledge.linking import Link
from knowledge.training import train_version
from knowledge.versions import activate, check_version

_logger = logging.getLogger("knowledge")


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
    link = commands.add_parser("link", help="find the entities of a sentence")
    link.add_argument("path", type=Path, metavar="DIR")
    link.add_argument("text", metavar="TEXT")
    link.add_argument("--max-entities", type=int, default=10)
    link.add_argument("--json", action="store_true", help="a JSON list instead of lines")
    link.set_defaults(run=_link)
    verify = commands.add_parser("verify", help="check every byte of a version")
    verify.add_argument("path", type=Path, metavar="DIR")
    verify.set_defaults(run=_verify)
    switch = commands.add_parser("activate", help="let CURRENT name a version")
    switch.add_argument("path", type=Path, metavar="DIR")
    switch.add_argument("version", metavar="VERSION")
    switch.set_defaults(run=_activate)
    return parser


def _add_build(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    build = commands.add_parser("build", help="build a version from a file of facts")
    build.add_argument("input", type=Path, metavar="INPUT")
    build.add_argument("--format", choices=sorted(FORMATS), required=True)
    build.add_argument("--out", type=Path, required=True, metavar="DIR")
    build.add_argument(
        "--objects",
        choices=["all", "subjects"],
        default="subjects",
        help="which objects are entities: all, or those that are subjects too (default)",
    )
    build.add_argument("--no-activate", action="store_true", help="leave CURRENT as it is")
    build.set_defaults(run=_build)


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    train = commands.add_parser("train", help="train entity vectors into a new version")
    train.add_argument("path", type=Path, metavar="DIR")
    train.add_argument("--dimension", type=int, default=128)
    train.add_argument("--epochs", type=int, default=100)
    train.add_argument("--seed", type=int, default=0)
    train.set_defaults(run=_train)


def _build(options: argparse.Namespace) -> None:
    how = BuildOptions(objects=options.objects, activate=not options.no_activate)
    with tqdm(total=1.0, disable=None, bar_format="{desc} {percentage:3.0f} % {bar}") as bar:

        def progress(stage: str, part: float) -> None:
            bar.set_description_str(stage, refresh=False)
            bar.n = part
            bar.refresh()

        version = build_from_file(
            options.input, options.format, options.out, options=how, progress=progress
        )
    stats = check_version(version).stats
    for reason, count in stats["refused"].items():
        _logger.warning("refused %d: %s", count, reason)
    if stats["refused"]:
        _logger.warning("the first lines of each: %s.refused.jsonl", version)
    _print_json({"version": version.name, "path": str(version), "stats": stats})


def _train(options: argparse.Namespace) -> None:
    from knowledge.transe import TransEConfig  # torch only where it is used

    def progress(epoch: int, loss: float) -> None:
        if epoch % 10 == 0 or epoch == options.epochs:
            _logger.info("epoch %d of %d, loss %.4f", epoch, options.epochs, loss)

    config = TransEConfig(options.dimension, options.epochs, seed=options.seed)
    version = train_version(options.path, config, progress=progress)
    _print_json({"version": version.name, "path": str(version)})


def _link(options: argparse.Namespace) -> None:
    links = KnowledgeGraph.open(options.path).link(options.text, options.max_entities)
    if options.json:
        _print_json([dataclasses.asdict(link) for link in links])
    else:
        _explain(options.text, links)
        _print_lines(links)


def _verify(options: argparse.Namespace) -> None:
    graph = KnowledgeGraph.open(options.path, verify="full")
    _print_json({"version": graph.version, "path": str(graph.path), "intact": True})


def _activate(options: argparse.Namespace) -> None:
    _print_json({"version": activate(options.path, options.version).name})


def _explain(text: str, links: Sequence[Link]) -> None:
    """On stderr, for the eye: the sentence with its entities marked, then what each might mean."""
    marked, end = [], 0
    for link in links:
        marked.append(f"{text[end : link.start]}【{link.surface}】")
        end = link.end
    _logger.info("%s", "".join(marked) + text[end:])
    for link in links:
        for candidate in link.candidates:
            sign = "*" if candidate.entity == link.entity else " "
            score = f"score {link.score:.3f}" if sign == "*" else ""
            _logger.info(" %s %s  prior %.3f  %s", sign, candidate.key, candidate.prior, score)


def _print_lines(links: Sequence[Link]) -> None:
    for link in links:
        fields = (link.start, link.end, link.surface, link.key, f"{link.score:.3f}")
        sys.stdout.write("\t".join(map(str, fields)) + "\n")


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
