"""Build the data set and the graph of emoji-zh: `python -m recipes.emoji_zh.build --out DIR`.

Writes, under DIR:
    pictures_128.npy, pictures_512.npy   uint8 (N, S, S, 3), RGB on white (512: see `--large`)
    metadata.jsonl                       row i describes picture i; see `_rows`
    graph/                               a store of the `knowledge` package, with TransE vectors
    missing/                             rough pictures of pairs without one, for the draft alone
    statistics.json                      counts, packages, licences
Needs `npm` once, for the pinned packages of `packages.py`; nothing else leaves the machine.
"""

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from knowledge.builder import BuildOptions, build_version
from knowledge.training import train_version
from knowledge.transe import TransEConfig
from rapid_diffusion.files import replacing
from recipes.emoji_zh import holdout
from recipes.emoji_zh.captions import compose
from recipes.emoji_zh.concepts import Concept, read_concepts
from recipes.emoji_zh.graph import Triple, build_aliases, build_triples, entity_key
from recipes.emoji_zh.missing import missing_pairs
from recipes.emoji_zh.packages import PACKAGES, fetch, fetch_upscaler
from recipes.emoji_zh.pictures import STYLES, find_pictures, main_colours, on_white, rasterise

SMALL, LARGE = 128, 512
#: Side of the pictures whose colours captions name.
COLOURED = 256
CAPTIONS = 24
MISSING = "missing"
HOLDOUT_FILE = Path(__file__).with_name("holdout.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(".work/emoji_zh"))
    parser.add_argument("--packages", type=Path, help="where npm packages lie or go")
    parser.add_argument("--groups", nargs="*", default=list(holdout.FIRST_GROUPS))
    parser.add_argument("--large", type=side, default=LARGE, help="side of the large pictures")
    parser.add_argument("--write-holdout", action="store_true", help="write holdout.json anew")
    arguments = parser.parse_args()
    build(arguments)


def side(text: str) -> int:
    """Of large pictures, in pixels: the small ones are shrunk from them."""
    pixels = int(text)
    if pixels < SMALL:
        raise argparse.ArgumentTypeError(f"{text}; allowed: {SMALL} (the small pictures') or more")
    return pixels


def build(arguments: argparse.Namespace) -> None:
    """Fetch, draw, caption, link: everything the training reads."""
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    packages = arguments.packages or out / "packages"
    fetch(packages)
    fetch_upscaler(out)
    concepts = read_concepts(packages)
    sources = {style: find_pictures(packages, style, concepts) for style in STYLES}
    pairs = [(code, style) for style in STYLES for code in sorted(sources[style])]
    held = _holdout(concepts, pairs, arguments.write_holdout)
    wanted = [pair for pair in pairs if concepts[pair[0]].group in arguments.groups]
    colours = _draw(out, wanted, sources, arguments.large)
    rows = _rows(concepts, wanted, colours, held)
    _write_lines(out / "metadata.jsonl", rows)
    missing = _write_missing(out, concepts, rows, held)
    grouped = defaultdict(list)
    for row in rows:
        grouped[row["code"]].append(row["colours"])
    triples = build_triples(concepts.values(), grouped)
    _build_graph(out / "graph", triples, concepts)
    (out / "statistics.json").write_text(
        json.dumps(_statistics(rows, triples, missing), ensure_ascii=False, indent=1) + "\n"
    )
    print(f"{len(rows)} pictures of {len({r['code'] for r in rows})} concepts in {out}")


def _holdout(
    concepts: dict[str, Concept], pairs: list[tuple[str, str]], write: bool
) -> dict[str, Any]:
    held = {
        "pairs": ["/".join(pair) for pair in holdout.held_out_pairs(pairs)],
        "aliases": holdout.held_out_aliases(concepts),
    }
    text = json.dumps(held, ensure_ascii=False, indent=1) + "\n"
    if write:
        HOLDOUT_FILE.write_text(text, encoding="utf-8")
    elif HOLDOUT_FILE.read_text(encoding="utf-8") != text:
        raise SystemExit(
            f"{HOLDOUT_FILE} differs from what the rules give for these packages; "
            "look at the difference, then run again with --write-holdout"
        )
    return held


def _draw(
    out: Path,
    wanted: list[tuple[str, str]],
    sources: dict[str, dict[str, str | Path]],
    large_side: int,
) -> list[list[str]]:
    """Write both picture files and return the main colours of each picture."""
    files = {
        size: np.lib.format.open_memmap(
            out / f".pictures_{size}.npy", "w+", np.uint8, (len(wanted), size, size, 3)
        )
        for size in (SMALL, large_side)
    }
    colours = []
    for index, (code, style) in enumerate(tqdm(wanted, desc="pictures", unit="picture")):
        source = sources[style][code]
        colours.append(main_colours(rasterise(source, COLOURED)))
        large = on_white(rasterise(source, large_side))
        files[large_side][index] = np.asarray(large)
        files[SMALL][index] = np.asarray(shrink(large))
    for size, array in files.items():
        array.flush()
        (out / f".pictures_{size}.npy").rename(out / f"pictures_{size}.npy")
    return colours


def shrink(large: Image.Image) -> Image.Image:
    """The picture the model draws, from the one the upscaler aims at."""
    return large.resize((SMALL, SMALL), Image.Resampling.LANCZOS)


def _rows(
    concepts: dict[str, Concept],
    wanted: list[tuple[str, str]],
    colours: list[list[str]],
    held: dict[str, Any],
) -> list[dict[str, Any]]:
    own = holdout.unique_keywords(concepts)
    hidden_pairs, hidden_aliases = set(held["pairs"]), held["aliases"]
    rows = []
    for index, ((code, style), names) in enumerate(zip(wanted, colours, strict=True)):
        concept = concepts[code]
        hidden = hidden_aliases.get(code, [])
        aliases = [word for word in own[code] if word not in hidden]
        rows.append(
            {
                "index": index,
                "code": code,
                "entity": entity_key(concept),
                "name": concept.name,
                "group": concept.group,
                "subgroup": concept.subgroup,
                "style": style,
                "license": STYLES[style].license,
                "colours": names,
                "split": "held_out" if f"{code}/{style}" in hidden_pairs else "train",
                "held_out_aliases": hidden,
                "captions": compose(concept, style, names, aliases, CAPTIONS),
            }
        )
    return rows


def _write_missing(
    out: Path, concepts: dict[str, Concept], rows: list[dict[str, Any]], held: dict[str, Any]
) -> int:
    """A data folder of what `missing.py` makes of the training's pictures; how many there are."""
    made = missing_pairs(rows, np.load(out / f"pictures_{SMALL}.npy", mmap_mode="r"))
    near = [rows[pair.nearest] for pair in made]
    pairs = [(pair.code, pair.style) for pair in made]
    described = _rows(concepts, pairs, [row["colours"] for row in near], held)
    folder = out / MISSING
    folder.mkdir(exist_ok=True)
    with replacing(folder / f"pictures_{SMALL}.npy") as temporary, temporary.open("wb") as file:
        np.save(file, np.stack([pair.picture for pair in made]))
    _write_lines(
        folder / "metadata.jsonl",
        [
            {**row, "split": "train", "license": other["license"], "nearest": other["style"]}
            for row, other in zip(described, near, strict=True)
        ],
    )
    return len(made)


def _build_graph(store: Path, triples: list[Triple], concepts: dict[str, Concept]) -> None:
    names = {entity_key(concept): concept.name for concept in concepts.values()}
    options = BuildOptions(link_objects=False)
    version = build_version(triples, build_aliases(concepts), store, names=names, options=options)
    train_version(version, TransEConfig(dimension=128))


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    temporary = path.with_name(f".{path.name}")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    temporary.replace(path)


def _statistics(rows: list[dict[str, Any]], triples: list[Any], missing: int) -> dict[str, Any]:
    return {
        "pictures": len(rows),
        "concepts": len({row["code"] for row in rows}),
        "held_out_pairs": sum(row["split"] == "held_out" for row in rows),
        "missing_pairs": missing,
        "styles": dict(Counter(row["style"] for row in rows)),
        "groups": dict(Counter(row["group"] for row in rows)),
        "triples": len(triples),
        "packages": PACKAGES,
        "licenses": {name: style.license for name, style in STYLES.items()},
    }


if __name__ == "__main__":
    main()
