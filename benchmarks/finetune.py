"""Does an adapter draw its style, and is the old one kept? `python benchmarks/finetune.py`.

Style: a linear probe on the textures that the judge sees in *real* pictures tells eight styles
apart: the seven that the model was trained on and the adapter's. Each real picture is there twice:
as it is after the autoencoder and the upscaler, and as the base model restores it from noise, told
nothing; else the probe would call whatever is painted softly by the one style that is soft. It is
fitted in folds over concepts, so that a picture, real or drawn, is always judged by a probe that
never saw its concept. Drawn: the plain captions of the new data, of concepts the adapter learned
from and of others; the same captions without the adapter say what the base makes of them, and
trained pairs drawn by the base how far the probe can be trusted with drawings at all.

Old domain: the judge's recall of trained pairs (as in `evaluation/report.py`), with the adapter and
without; the difference has a bootstrap interval over concepts. Without the adapter the model is the
base to the bit (`tests/test_adapters.py`).
"""

import argparse
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from styles import StyleProbe, encode, finish, restore, share_of
from torch import Tensor

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.evaluation.intervals import mean_and_interval
from rapid_diffusion.evaluation.report import Recognition
from rapid_diffusion.evaluation.retrieval import Query, ranks
from rapid_diffusion.images.convert import pixels_to_unit
from rapid_diffusion.training.data import read_rows

NAME = "adapter"
BARS = {"told_apart": 0.70, "old_recall_at_1_lost": 0.03}
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-zh")
    parser.add_argument("--adapter", type=Path, default=Path(".work/noto_v1/run/adapter"))
    parser.add_argument("--old", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--new", type=Path, default=Path(".work/noto_v1"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/finetune.json"))
    parser.add_argument("--concepts", type=int, default=100, help="at most so many of each kind")
    parser.add_argument("--seeds", type=int, default=1, help="pictures a prompt")
    options = parser.parse_args()
    started = time.monotonic()
    pipeline = RapidDiffusionPipeline.from_pretrained(options.model)
    pipeline.load_adapter(options.adapter, NAME)
    bench = Bench(pipeline, options)
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "model": {"name": pipeline.name, "digest": pipeline.digest},
        "adapter": {"name": pipeline.adapters[NAME].name, "digest": pipeline.adapters[NAME].digest},
        "training": pipeline.adapters[NAME].training,
        "bars": BARS,
        "seeds": options.seeds,
        "switch": switch(pipeline),
        "style": bench.style(),
        "old_domain": bench.old_domain(),
    }
    report["seconds"] = round(time.monotonic() - started, 1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    print(json.dumps(report, ensure_ascii=False, indent=1))


@dataclass(frozen=True)
class Drawn:
    """What the judge sees in drawings: features to recognise things by, textures for the style."""

    features: Tensor
    textures: Tensor


class Bench:
    """The judge, its real pictures old and new, and the old ones as the base draws them."""

    def __init__(self, pipeline: RapidDiffusionPipeline, options: argparse.Namespace) -> None:
        self.pipeline, self.options = pipeline, options
        self.recognition = Recognition(options.old)
        self.rows: list[Row] = read_rows(options.new / "metadata.jsonl")
        self.known = one_style_each(self.recognition.rows, self.recognition.among)
        self.known = self.known[: options.concepts]
        self.known_by_base = self._draw(self.known, None)

    def style(self) -> dict[str, Any]:
        """How often the probe names the adapter's style, for real pictures and for drawn ones."""
        new, most = self.rows[0]["style"], self.options.concepts
        probe = self._probe()
        named = probe.name(self.known_by_base.textures, self._codes(self.known))
        styles = [row["style"] for row in self.known for _ in range(self.options.seeds)]
        right = [name == style for name, style in zip(named, styles, strict=True)]
        report: dict[str, Any] = {
            "styles": probe.names,
            "real_pictures": probe.on_real(new),
            "drawn_by_base_told_right": {"pictures": len(right), "share": share_of(right)},
        }
        kinds = {
            "learned_concepts": [row for row in self.rows if row["split"] == "train"][:most],
            "other_concepts": [row for row in self.rows if row["split"] != "train"][:most],
        }
        every: list[bool] = []
        for kind, rows in kinds.items():
            for adapter in (NAME, None):
                named = probe.name(self._draw(rows, adapter).textures, self._codes(rows))
                counted = [name == new for name in named]
                every += counted if adapter else []
                report[f"{kind}_{'with' if adapter else 'without'}_adapter"] = {
                    "pictures": len(named),
                    "told_apart": share_of(counted),
                    "named": dict(Counter(named).most_common()),
                }
        report["told_apart"] = share_of(every)
        report["bar_met"] = report["told_apart"] >= BARS["told_apart"]
        return report

    def _probe(self) -> "StyleProbe":
        judge, rows = self.recognition.judge, [*self.recognition.rows, *self.rows]
        model = self.pipeline.model
        name = f"pictures_{model.denoiser.sample_size * model.autoencoder.factor}.npy"
        latents = torch.cat(
            [
                encode(self.pipeline, np.load(folder / name, mmap_mode="r"))
                for folder in (self.options.old, self.options.new)
            ]
        )
        ways = (latents, restore(self.pipeline, latents))
        textures = [
            judge.textures(finish(self.pipeline, part)) for way in ways for part in way.split(32)
        ]
        styles = [row["style"] for row in rows]
        return StyleProbe(torch.cat(textures), styles * 2, [row["code"] for row in rows] * 2)

    def _codes(self, rows: Sequence[Row]) -> list[str]:
        return [row["code"] for row in rows for _ in range(self.options.seeds)]

    def _draw(self, rows: Sequence[Row], adapter: str | None) -> Drawn:
        wanted = [
            {"prompt": row["captions"][0], "seed": seed}
            for row in rows
            for seed in range(self.options.seeds)
        ]
        judge, seen = self.recognition.judge, []
        for result in self.pipeline.render(wanted, adapter=adapter, output_type="numpy"):
            images = pixels_to_unit(result.images)
            seen.append((judge.features(images), judge.textures(images)))
        features, textures = zip(*seen, strict=True)
        return Drawn(torch.cat(features), torch.cat(textures))

    def old_domain(self) -> dict[str, Any]:
        """The judge's recall at 1 of trained pairs, with the adapter on and off, and the loss."""
        gallery, among = self.recognition.gallery, self.recognition.among
        owners = [row for row in self.known for _ in range(self.options.seeds)]
        found: dict[str, list[bool]] = {}
        drawn = {
            "without_adapter": self.known_by_base,
            "with_adapter": self._draw(self.known, NAME),
        }
        for name, pictures in drawn.items():
            queries = [
                Query(one, row["code"], row["style"])
                for one, row in zip(pictures.features, owners, strict=True)
            ]
            found[name] = [place == 0 for place in ranks(queries, gallery, among)]
        count = len(self.known)
        lost, interval = difference(found["without_adapter"], found["with_adapter"], count)
        return {
            "prompts": count,
            **{f"recall_at_1_{name}": share_of(hits) for name, hits in found.items()},
            "lost": lost,
            "interval_95": interval,
            "bar_met": lost <= BARS["old_recall_at_1_lost"],
        }


def one_style_each(rows: Sequence[Row], codes: Sequence[str]) -> list[Row]:
    """One training picture of each concept, by digest, so that every style gets its share."""
    groups: dict[str, list[Row]] = {code: [] for code in codes}
    for row in rows:
        if row["code"] in groups and row["split"] == "train":
            groups[row["code"]].append(row)
    return [
        min(
            group, key=lambda row: hashlib.sha256((row["code"] + row["style"]).encode()).hexdigest()
        )
        for group in groups.values()
        if group
    ]


def difference(one: Sequence[bool], two: Sequence[bool], prompts: int) -> tuple[float, list[float]]:
    """Share of `one` minus share of `two`, with its 95 % bootstrap interval over prompts."""
    each = np.asarray(one, float) - np.asarray(two, float)
    owners = np.repeat(np.arange(prompts), len(each) // prompts)
    mean, (low, high) = mean_and_interval(each, [str(owner) for owner in owners])
    return round(mean, 4), [round(low, 4), round(high, 4)]


def switch(pipeline: RapidDiffusionPipeline) -> dict[str, float]:
    """Seconds that adding and taking back the adapter's change adds to a call."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        with pipeline._adapters.applied(NAME):
            pass
        seconds.append(time.perf_counter() - started)
    return {"median_seconds": round(sorted(seconds)[2], 4)}


if __name__ == "__main__":
    main()
