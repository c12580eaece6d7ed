"""The recipe's rules: what is held out, what a caption says, which flags and colours there are."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from knowledge.graph import KnowledgeGraph
from rapid_diffusion.components import EMBEDDED
from recipes.emoji_zh import build, everyday, holdout, missing, pack
from recipes.emoji_zh.captions import compose
from recipes.emoji_zh.concepts import Concept, normalise_code
from recipes.emoji_zh.graph import build_aliases, build_triples, entity_key, everyday_names
from recipes.emoji_zh.missing import missing_pairs
from recipes.emoji_zh.pictures import STYLES, main_colours, on_white, rasterise

RECIPE = Path(__file__).parents[2] / "recipes" / "emoji_zh"


def concept(code: str, name: str, *keywords: str, group: str = "food-drink") -> Concept:
    return Concept(code, name, keywords, name, group, "food-fruit")


CONCEPTS = {
    "1": concept("1", "西红柿", "番茄", "蔬菜", "红柿子"),
    "2": concept("2", "红薯", "地瓜", "蔬菜", "烤"),
    "3": concept("3", "书", "课本", "红色", group="objects"),
}


def test_code_points_lose_the_variation_selector_and_leading_zeros() -> None:
    assert normalise_code("0023-FE0F-20E3") == "23-20e3"


def test_an_alias_belongs_to_one_concept_is_longer_than_a_character_and_no_colour() -> None:
    own = holdout.unique_keywords(CONCEPTS)
    assert own == {"1": ["番茄", "红柿子"], "2": ["地瓜"], "3": ["课本"]}


def test_held_out_aliases_share_no_character_with_the_name() -> None:
    assert holdout.held_out_aliases(CONCEPTS) == {"1": ["番茄"], "2": ["地瓜"], "3": ["课本"]}


def test_held_out_pairs_are_a_share_by_rule_and_leave_two_styles() -> None:
    pairs = [(str(code), style) for code in range(50) for style in "abc"]
    held = holdout.held_out_pairs(pairs)
    assert len(held) == round(0.08 * len(pairs))
    assert held == holdout.held_out_pairs(pairs[::-1])
    codes = [code for code, _ in held]
    assert len(set(codes)) == len(codes)


def test_the_committed_file_holds_out_what_the_rules_say() -> None:
    held = json.loads((RECIPE / "holdout.json").read_text(encoding="utf-8"))
    assert len(held["aliases"]) == holdout.ALIAS_CONCEPTS
    assert {pair.split("/")[1] for pair in held["pairs"]} == set(STYLES)


def test_captions_are_the_same_every_time_and_never_hold_a_hidden_alias() -> None:
    captions = compose(CONCEPTS["1"], "noto", ["红色"], ["红柿子"], 64)
    assert captions == compose(CONCEPTS["1"], "noto", ["红色"], ["红柿子"], 64)
    assert captions[0] == "卡通风格的西红柿"
    assert len(set(captions)) > 12
    assert not any("番茄" in caption for caption in captions)


ROW = {
    "code": "1",
    "style": "noto",
    "name": "西红柿",
    "entity": "emoji:1",
    "captions": ["卡通风格的西红柿", "西红柿，卡通"],
}


def test_everyday_sentences_mean_the_name_and_the_style() -> None:
    lines = everyday.sentences(ROW, 200, lambda text: {"emoji:1"} if "西红柿" in text else ())
    assert lines == everyday.sentences(ROW, 200, lambda text: {"emoji:1"})
    kept, told = lines[:2], lines[2:]
    assert (
        [line["sentence"] for line in kept] == [line["means"] for line in kept] == ROW["captions"]
    )
    assert len({line["sentence"] for line in told}) > 180
    assert all("西红柿" in line["sentence"] for line in told)
    for line in told:
        styled = "卡通风格" in line["sentence"]
        assert line["means"] == ("卡通风格的西红柿" if styled else "西红柿")
        assert line["entity"] == "emoji:1"


def test_a_sentence_that_names_another_thing_is_left_out() -> None:
    """可爱的小 before 鸡 would be a chick."""
    lines = everyday.sentences(ROW, 200, lambda text: {"2"} if "小西红柿" in text else {"1"})
    assert 2 < len(lines) < 202
    assert not any("小西红柿" in line["sentence"] for line in lines)


def test_every_alias_leads_to_its_concept_and_shared_words_to_themselves() -> None:
    aliases = {surface: (key, prior) for surface, key, prior in build_aliases(CONCEPTS)}
    assert aliases["番茄"] == (entity_key(CONCEPTS["1"]), 0.9)
    assert aliases["西红柿"] == (entity_key(CONCEPTS["1"]), 1.0)
    assert aliases["蔬菜"][0] == "蔬菜"


def test_everyday_names_lead_to_what_they_mean_in_the_shipped_graph() -> None:
    """A line that names nothing, or an alias that something else has, would do nothing unseen."""
    graph = KnowledgeGraph.open(EMBEDDED / "emoji-zh" / "knowledge")
    lines = everyday_names()
    assert len({alias for alias, _ in lines}) == len(lines) > 50
    for alias, name in lines:
        linked = [graph.name(link.entity) for link in graph.link(f"一只可爱的{alias}")]
        assert name in linked, f"{alias} leads to {linked}"


def test_everyday_names_are_none_of_the_held_out_aliases() -> None:
    held = json.loads((RECIPE / "holdout.json").read_text(encoding="utf-8"))
    hidden = {alias for aliases in held["aliases"].values() for alias in aliases}
    assert not hidden & {alias for alias, _ in everyday_names()}


def test_a_colour_is_a_fact_where_most_pictures_agree() -> None:
    colours = {"1": [["红色"], ["红色", "绿色"], ["绿色"]]}
    triples = build_triples(CONCEPTS.values(), colours)
    assert ("emoji:1", "颜色", "红色") in triples
    assert ("emoji:1", "颜色", "蓝色") not in triples


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((220, 30, 30), "红色"),
        ((250, 220, 40), "黄色"),
        ((40, 90, 220), "蓝色"),
        ((9, 9, 9), "黑色"),
    ],
)
def test_colours_are_read_off_the_drawn_pixels_only(rgb: tuple[int, ...], name: str) -> None:
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((8, 8, 24, 24), fill=(*rgb, 255))
    assert main_colours(image) == [name]


def test_a_drawing_lies_on_pure_white_with_no_dark_edge() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10">'
        '<circle cx="5" cy="5" r="4" fill="#ff0000"/></svg>'
    )
    pixels = np.asarray(on_white(rasterise(svg, 64)))
    assert (pixels[0] == 255).all()
    assert pixels[..., 0].min() == 255  # red on white: nowhere less red than full


def shown_in_styles() -> tuple[list[dict[str, str]], np.ndarray]:
    """Forty concepts in three styles, the second the first's negative; "0" is held out in it."""
    generator = np.random.default_rng(0)
    first = generator.integers(0, 256, (40, 16, 16, 3), np.uint8)
    kinds = {"twemoji": first, "noto": 255 - first, "emojione": first // 2}
    rows = [
        {
            "code": str(code),
            "style": style,
            "split": "held_out" if (code, style) == (0, "noto") else "train",
        }
        for style in kinds
        for code in range(40)
    ]
    return rows, np.concatenate(list(kinds.values()))


def test_a_missing_pair_is_told_by_the_concepts_other_pictures(monkeypatch) -> None:
    """Where nothing is laid over it: the second style is told by the first."""
    monkeypatch.setattr(missing, "LAID_OVER", 0.0)
    monkeypatch.setattr(missing, "RIDGE", 1e-6)
    monkeypatch.setattr(missing, "LEFT_OUT", 0.0)
    monkeypatch.setattr(missing, "PATCH", 4)  # 8 px would leave too few patches to fit to
    rows, pictures = shown_in_styles()
    [pair] = missing_pairs(rows, pictures)
    assert (pair.code, pair.style) == ("0", "noto")
    truth = pictures[40]
    assert (
        np.abs(pair.picture.astype(int) - truth).mean()
        < 0.1 * np.abs(pictures[41:80] - 127.5).mean()
    )


def test_a_missing_pair_leans_on_the_nearest_style_and_never_sees_what_is_held_out() -> None:
    rows, pictures = shown_in_styles()
    [pair] = missing_pairs(rows, pictures)
    assert rows[pair.nearest]["code"] == "0"
    assert rows[pair.nearest]["style"] != "noto"
    pictures[40] = 0  # the picture that is held out
    assert np.array_equal(missing_pairs(rows, pictures)[0].picture, pair.picture)


def test_a_style_without_pictures_and_a_concept_without_any_stay_missing() -> None:
    rows, pictures = shown_in_styles()
    for row in rows:
        if row["code"] == "3":
            row["split"] = "held_out"
    assert {(pair.code, pair.style) for pair in missing_pairs(rows, pictures)} == {("0", "noto")}


def test_a_pack_unpacks_to_the_same_pictures(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    (data / "graph").mkdir(parents=True)
    (data / "graph" / "CURRENT").write_text("1\n")
    (data / "metadata.jsonl").write_text("{}\n")
    noise = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    np.save(data / "pictures_128.npy", noise)
    np.save(data / "pictures_512.npy", noise)  # stays behind
    (data / "missing").mkdir()
    np.save(data / "missing" / "pictures_128.npy", noise[:2])
    (data / "missing" / "metadata.jsonl").write_text("{}\n")
    pack.make(data, tmp_path / "data.zip")
    pack.unpack(tmp_path / "data.zip", copy)
    assert (np.load(copy / "pictures_128.npy") == noise).all()
    assert (copy / "graph" / "CURRENT").read_text() == "1\n"
    assert (np.load(copy / "missing" / "pictures_128.npy") == noise[:2]).all()
    assert (copy / "missing" / "metadata.jsonl").read_text() == "{}\n"
    assert not (copy / "pictures_512.npy").exists()


@pytest.mark.parametrize("side", ["0", "-1", "127"])
def test_large_pictures_are_not_smaller_than_small_ones(monkeypatch, capsys, side) -> None:
    monkeypatch.setattr("sys.argv", ["build", "--large", side])
    with pytest.raises(SystemExit, match="2"):
        build.main()
    assert f"{side}; allowed: 128" in capsys.readouterr().err
