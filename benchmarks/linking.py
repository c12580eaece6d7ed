"""How well the linker links the gold set: `python benchmarks/linking.py [--fit] [--out FILE]`.

Weights are chosen on the `fit` half only (`--fit` prints them); the bars are read off the `held`
half. Everything is counted twice: with the linker as it is, and by the prior alone.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

# benchmarks/knowledge_scale.py would hide the package: the folder above comes first instead.
sys.path.insert(0, str(Path(__file__).parents[1]))

from knowledge.builder import BuildOptions, build_version
from knowledge.context import Weights
from knowledge.formats import read_facts
from knowledge.graph import KnowledgeGraph
from knowledge.linking import normalise

DATA = Path(__file__).parents[1] / "tests" / "data"
Row = dict[str, Any]


def build(store: Path, *, left_out: frozenset[str] = frozenset()) -> KnowledgeGraph:
    """The graph of the gold set, less the facts of the relations `left_out`."""
    facts = read_facts(DATA / "link_graph.csv", "ownthink")
    triples = [triple for triple in facts.triples if triple[1] not in left_out]
    options = BuildOptions(objects="subjects")
    return KnowledgeGraph.open(build_version(triples, facts.aliases, store, options=options))


def gold(split: str) -> list[Row]:
    """The rows of one half, `fit` or `held`."""
    lines = (DATA / "link_gold.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def agreement() -> dict[str, Any]:
    """How far two annotators agree on a tenth of the prompts: F1 of spans, equal entities."""
    first = {row["id"]: _marked(row) for row in gold("fit") + gold("held")}
    lines = (DATA / "link_gold_second.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [(first[row["id"]], _marked(row)) for row in map(json.loads, lines)]
    both = [one[span] == other[span] for one, other in pairs for span in one.keys() & other.keys()]
    marked = sum(len(one) + len(other) for one, other in pairs)
    return {
        "prompts": len(pairs),
        "mentions_of_both": len(both),
        "mention_f1": round(2 * len(both) / marked, 4),
        "same_entity": round(sum(both) / len(both), 4),
    }


def _marked(row: Row) -> dict[tuple[int, int], str]:
    return {(link["start"], link["end"]): link["entity"] for link in row["links"]}


def ambiguous(graph: KnowledgeGraph, surface: str) -> int:
    """How many entities are called `surface`."""
    text = normalise(surface)
    spans = graph.linker.matches(surface, text)
    whole = [span for span in spans if (span.start, span.end) == (0, len(text.text))]
    return max((len(graph.linker.candidates(span)) for span in whole), default=0)


def evaluate(graph: KnowledgeGraph, rows: list[Row]) -> dict[str, Any]:
    """Mentions (spans), disambiguation (of the spans of ambiguous names) and false alarms."""
    counts = dict.fromkeys(("found", "right", "wanted", "choices", "chosen", "prior", "missed"), 0)
    alarms, errors = [], []
    for row in rows:
        links = {(link.start, link.end): link for link in graph.link(row["text"], 50)}
        wanted = {(link["start"], link["end"]): link for link in row["links"]}
        counts["found"] += len(links)
        counts["wanted"] += len(wanted)
        counts["right"] += len(links.keys() & wanted.keys())
        if links and not wanted:
            alarms.append([row["text"], *(link.surface for link in links.values())])
        for span in links.keys() ^ wanted.keys():
            errors.append([row["text"], row["text"][slice(*span)], span in wanted])
        for span, mention in wanted.items():
            _count_choice(graph, mention, links.get(span), counts, errors)
    return _figures(counts, rows, alarms) | {"false_alarms": alarms, "errors": errors}


def _count_choice(
    graph: KnowledgeGraph, mention: Row, link: Any, counts: dict[str, int], errors: list[Any]
) -> None:
    if ambiguous(graph, mention["surface"]) < 2:
        return
    counts["choices"] += 1
    if link is None:
        counts["missed"] += 1
        return
    counts["prior"] += link.candidates[0].key == mention["entity"]
    counts["chosen"] += link.key == mention["entity"]
    if link.key != mention["entity"]:
        errors.append([mention["surface"], mention["entity"], link.key])


def _figures(counts: dict[str, int], rows: list[Row], alarms: list[Any]) -> dict[str, Any]:
    precision, recall = counts["right"] / counts["found"], counts["right"] / counts["wanted"]
    nothing = sum(not row["links"] for row in rows)
    reached = counts["choices"] - counts["missed"]
    return {
        "prompts": len(rows),
        "mention_precision": round(precision, 4),
        "mention_recall": round(recall, 4),
        "mention_f1": round(2 * precision * recall / (precision + recall), 4),
        "ambiguous_mentions": counts["choices"],
        "ambiguous_mentions_missed": counts["missed"],
        "disambiguation": round(counts["chosen"] / reached, 4),
        "disambiguation_missed_counted_wrong": round(counts["chosen"] / counts["choices"], 4),
        "disambiguation_by_prior": round(counts["prior"] / reached, 4),
        "prompts_with_nothing": nothing,
        "nothing_but_linked": round(len(alarms) / nothing, 4),
    }


def fit(graph: KnowledgeGraph, rows: list[Row]) -> Weights:
    """The weights of a small grid with the most right choices and spans on `rows`."""
    best, found = -1.0, Weights()
    grid = itertools.product((1.0, 2.0), (0.5, 1.0), (0.0, 0.2, 0.4), (0.5, 1.0, 1.5), (0.4, 0.9))
    for fact, pair, character, cue, support in grid:
        graph.linker.weights = Weights(fact, pair, character, cue, (support,) * 3)
        figures = evaluate(graph, rows)
        total = (
            figures["disambiguation_missed_counted_wrong"]
            + figures["mention_f1"]
            - figures["nothing_but_linked"]
        )
        if total > best:
            best, found = total, graph.linker.weights
    return found


def _ablations(graph: KnowledgeGraph, folder: Path) -> dict[str, Any]:
    """The held half with evidence taken away. Prompts and descriptions are by one hand and share
    words, so that the figure without descriptions is the fairer one; without any evidence the
    linker must fall to the prior, or the comparison is broken.
    """
    weights = graph.linker.weights
    bare = build(folder, left_out=frozenset({"描述"}))
    cases = {
        "held_without_cues": (graph, dataclasses.replace(weights, cue=0.0)),
        "held_without_descriptions": (bare, weights),
        "held_without_descriptions_and_cues": (bare, dataclasses.replace(weights, cue=0.0)),
        "held_without_evidence": (graph, Weights(0.0, 0.0, 0.0, 0.0, weights.support)),
    }
    result = {}
    for name, (used, chosen) in cases.items():
        used.linker.weights = chosen
        figures = evaluate(used, gold("held"))
        result[name] = {key: figures[key] for key in figures if key != "errors"}
    return result


def main() -> None:
    """Run the benchmark and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", action="store_true", help="choose the weights on the fit half")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("--errors", action="store_true", help="print what went wrong on `fit`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        graph = build(Path(folder))
        if options.fit:
            graph.linker.weights = fit(graph, gold("fit"))
        result: dict[str, Any] = {
            "command": "python benchmarks/linking.py",
            "weights": dataclasses.asdict(graph.linker.weights),
            "agreement_of_two_annotators": agreement(),
        }
        for split in ("fit", "held"):
            result[split] = evaluate(graph, gold(split))
            errors = result[split].pop("errors")
            if options.errors and split == "fit":  # the held half is not for looking at
                print(*map(str, errors), sep="\n")
        result |= _ablations(graph, Path(folder))
    text = json.dumps(result, ensure_ascii=False, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
