"""A style that emoji-zh has never seen: `python -m recipes.emoji_zh.finetune_noto_v1`.

Noto's first drawings (npm `@iconify-json/noto-v1`, Apache-2.0) become the data folder of
`finetune_noto_v1.toml`. It draws 196 of the concepts that the model knows: 160 pictures to learn
from, the others are held out. Captions name the style in words that no other style uses, made of
characters that the model can read: it knows only those of its own captions.
"""

import argparse
import hashlib
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from rapid_diffusion.training.data import read_rows
from recipes.emoji_zh import holdout
from recipes.emoji_zh.build import HOLDOUT_FILE, LARGE, SMALL, shrink
from recipes.emoji_zh.captions import STYLED
from recipes.emoji_zh.concepts import Concept, read_concepts
from recipes.emoji_zh.graph import entity_key
from recipes.emoji_zh.packages import fetch
from recipes.emoji_zh.pictures import Style, find_pictures, on_white, rasterise

NAME = "noto-v1"
PACKAGE = "@iconify-json/noto-v1@1.2.5"
STYLE = Style("老式图画风格", ("老式图画", "老式"), "Apache-2.0 (Google Noto Emoji, version 1)")
PICTURES = 160
CAPTIONS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", type=Path, default=Path(".work/emoji_zh"), help="built data set")
    parser.add_argument("--out", type=Path, default=Path(".work/noto_v1"))
    parser.add_argument("--packages", type=Path, help="where npm packages lie or go")
    options = parser.parse_args()
    packages = options.packages or options.old / "packages"
    fetch(packages)
    fetch(packages, {NAME: PACKAGE})
    rows = build(packages, options.old, options.out)
    trained = sum(row["split"] == "train" for row in rows)
    print(f"{trained} pictures to learn from, {len(rows) - trained} held out, in {options.out}")


def build(packages: Path, old: Path, out: Path) -> list[dict]:
    """Draw and caption the concepts that the old data set has; returns the rows."""
    concepts = read_concepts(packages)
    known = {row["code"] for row in read_rows(old / "metadata.jsonl")}
    sources = find_pictures(packages, NAME, concepts)
    codes = sorted((code for code in sources if code in known), key=_digest)
    out.mkdir(parents=True, exist_ok=True)
    large = np.stack(
        [
            np.asarray(on_white(rasterise(sources[code], LARGE)))
            for code in tqdm(codes, desc="pictures", unit="picture")
        ]
    )
    np.save(out / f"pictures_{LARGE}.npy", large)
    np.save(out / f"pictures_{SMALL}.npy", np.stack([_small(picture) for picture in large]))
    own, hidden = holdout.unique_keywords(concepts), json.loads(HOLDOUT_FILE.read_text())["aliases"]
    rows = [
        _row(number, concepts[code], [w for w in own[code] if w not in hidden.get(code, [])])
        for number, code in enumerate(codes)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (out / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return rows


def captions_of(concept: Concept, aliases: list[str]) -> list[str]:
    """Every caption names the style: one that did not would say that all pictures look so."""
    generator = random.Random(f"{concept.code}/{NAME}")
    captions = [f"{STYLE.words}的{concept.name}"]
    while len(captions) < CAPTIONS:
        name = generator.choice(aliases) if aliases and generator.random() < 0.2 else concept.name
        short = generator.random() < 0.25
        words = generator.choice(STYLE.synonyms) if short else STYLE.words
        captions.append(generator.choice(STYLED).format(s=words, n=name))
    return captions


def _row(number: int, concept: Concept, aliases: list[str]) -> dict:
    return {
        "index": number,
        "code": concept.code,
        "entity": entity_key(concept),
        "name": concept.name,
        "group": concept.group,
        "subgroup": concept.subgroup,
        "style": NAME,
        "license": STYLE.license,
        "split": "train" if number < PICTURES else "held_out",
        "held_out_aliases": [],
        "captions": captions_of(concept, aliases),
    }


def _small(picture: np.ndarray) -> np.ndarray:
    return np.asarray(shrink(Image.fromarray(picture)))


def _digest(text: str) -> str:
    return hashlib.sha256(f"{NAME}/{text}".encode()).hexdigest()


if __name__ == "__main__":
    main()
