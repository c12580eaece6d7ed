"""What knowledge is worth to the text tower: `python benchmarks/knowledge_twin.py`.

Trains the recipe's contrastive pair twice a seed: as the recipe says, and its twin, which sees the
same pictures and captions for as many steps but never a link. Then every sentence looks for its own
picture among all pictures of the data set: the first captions of held-out pairs, and those of
trained pictures with the name replaced by an alias that no caption holds (the graph knows it).
The twin is asked without knowledge, as it was trained.

Half an hour on two cores: run `--only-train --seeds 0` and so on side by side, then all together;
what is trained already is not trained again. Intervals resample concepts, all seeds together.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rapid_diffusion.evaluation.intervals import compared
from rapid_diffusion.files import write_bytes
from rapid_diffusion.training.config import TrainingConfig, read_training_config
from rapid_diffusion.training.data import Examples
from rapid_diffusion.training.run import Training

TWINS = {"knowledge": True, "plain": False}
BARS = {"held_out_pairs": 0.03, "held_out_aliases": 0.15}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("recipes/emoji_zh/config.toml"))
    parser.add_argument("--folder", type=Path, default=Path(".work/knowledge_twin"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only-train", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("docs/results/knowledge-twin.json"))
    options = parser.parse_args()
    config = read_training_config(options.config)
    trainings = {
        (name, seed): twin(config, options.folder / f"{name}-{seed}", seed, knowledge=knowledge)
        for seed in options.seeds
        for name, knowledge in TWINS.items()
    }
    for training in trainings.values():
        training.train("text", resume=True)
    if options.only_train:
        return
    loop = config.loops["text"]
    report = {
        "command": " ".join(["python", *sys.argv]),
        "steps": loop.steps,
        "batch": loop.batch,
        "bars": BARS,
        **measure(trainings, options.seeds),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(options.out, (json.dumps(report, ensure_ascii=False, indent=1) + "\n").encode())
    print(json.dumps(report, ensure_ascii=False, indent=1))


def twin(config: TrainingConfig, output: Path, seed: int, *, knowledge: bool) -> Training:
    """The recipe's text stage with this seed, or the same without a single link."""
    data = config.data
    if not knowledge:
        # Without links, hidden words would say nothing: the twin keeps all of its words.
        data = replace(data, link_dropout=1.0, surface_dropout=0.0)
    loops = config.loops | {"text": replace(config.loops["text"], seed=seed)}
    return Training(replace(config, output=str(output), data=data, loops=loops))


def measure(trainings: dict[tuple[str, int], Training], seeds: Sequence[int]) -> dict[str, Any]:
    """Recall at 1 of both twins by kind of sentence, and what knowledge adds."""
    examples = next(iter(trainings.values())).examples
    assert isinstance(examples, Examples)
    kinds = {
        "held_out_pairs": [(i, examples.first_texts([i])[0]) for i in examples.held_out],
        "held_out_aliases": alias_sentences(examples),
    }
    found = {
        (name, seed): hits(training, kinds, knowledge=TWINS[name])
        for (name, seed), training in trainings.items()
    }
    report: dict[str, Any] = {"pictures": len(examples.rows)}
    for kind, wanted in kinds.items():
        own = {name: np.concatenate([found[name, seed][kind] for seed in seeds]) for name in TWINS}
        groups = [examples.rows[row]["code"] for row, _ in wanted] * len(seeds)
        table = compared("R@1", own["knowledge"], own["plain"], groups)
        by_seed = {
            name: [round(float(found[name, seed][kind].mean()), 4) for seed in seeds]
            for name in TWINS
        }
        gains = [a - b for a, b in zip(by_seed["knowledge"], by_seed["plain"], strict=True)]
        report[kind] = {
            "sentences": len(wanted),
            "meaning": "model: with knowledge; against: the twin without; difference: paired",
            "recall": table,
            "recall_at_1_by_seed": by_seed,
            "bar_met": statistics.mean(gains) >= BARS[kind],
        }
    return report


def alias_sentences(examples: Examples) -> list[tuple[int, str]]:
    """Rows of the training, each with its first caption naming the thing as no caption does."""
    rows = [(i, examples.rows[i]) for i in examples.train if examples.rows[i]["held_out_aliases"]]
    return [
        (i, row["captions"][0].replace(row["name"], row["held_out_aliases"][0]))
        for i, row in rows
        if row["name"] in row["captions"][0]
    ]


@torch.inference_mode()
def hits(
    training: Training, kinds: dict[str, list[tuple[int, str]]], *, knowledge: bool
) -> dict[str, np.ndarray]:
    """Whether each sentence's own picture is the nearest of all, by kind of sentence."""
    examples, pair = training.examples, training.pair()
    assert isinstance(examples, Examples)
    pictures = examples.picture_features(pair, training.device)
    found = {}
    for kind, wanted in kinds.items():
        tokens = examples.typed([text for _, text in wanted], knowledge=knowledge)
        similarity = pair.text_features(pair.text.encode(tokens).hidden) @ pictures.T
        own = torch.tensor([row for row, _ in wanted])
        found[kind] = (similarity.argmax(1) == own).numpy()
    return found


if __name__ == "__main__":
    main()
