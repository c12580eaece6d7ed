"""What the pictures show: one `Concept` per emoji, with its Chinese words (Unicode CLDR)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.emoji_zh.packages import read_json
from recipes.emoji_zh.words import GROUPS, SUBGROUPS

SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
MAPS = {"1f5fe", "1f5fa"}


@dataclass(frozen=True)
class Concept:
    """One thing that is drawn. `code` is its code points in hexadecimal, joined by dashes."""

    code: str
    name: str
    keywords: tuple[str, ...]
    english: str
    group: str
    subgroup: str

    @property
    def group_name(self) -> str:
        """The Chinese name of the group, such as 动物与自然."""
        return GROUPS[self.group]

    @property
    def subgroup_name(self) -> str:
        """The Chinese name of the subgroup, such as 哺乳动物."""
        return SUBGROUPS.get(self.subgroup, self.subgroup)


def normalise_code(code: str) -> str:
    """Code points in lower case, without leading zeros and without the variation selector."""
    parts = [part.lstrip("0") for part in code.lower().replace("_", "-").split("-")]
    return "-".join(part for part in parts if part != "fe0f")


def read_concepts(packages: Path) -> dict[str, Concept]:
    """Every concept without skin tones, by code.

    Left out: components, maps, and the flags of anything that is not a member of the United
    Nations (by CLDR's own list).
    """
    chinese = _annotations(packages)
    english = {
        row["hexcode"]: row["label"] for row in read_json(packages / "emojibase/en/data.json")
    }
    meta = read_json(packages / "emojibase/meta/groups.json")
    members = _united_nations(packages)
    concepts = {}
    for row in read_json(packages / "emojibase/zh/data.json"):
        if "group" not in row or meta["groups"][str(row["group"])] == "component":
            continue
        concept = _concept(row, meta, chinese, english)
        if _may_be_drawn(concept, members):
            concepts[concept.code] = concept
    return concepts


def _concept(
    row: dict[str, Any], meta: dict[str, Any], chinese: dict[str, Any], english: dict[str, str]
) -> Concept:
    code = normalise_code(row["hexcode"])
    annotation = chinese.get(code, {})
    name = (annotation.get("tts") or [row["label"]])[0]
    subgroup = meta["subgroups"][str(row["subgroup"])]
    keywords = [*annotation.get("default", []), *row.get("tags", [])]
    if subgroup == "country-flag":
        country = name.replace("：", ":").split(":")[-1].strip()
        name, keywords = f"{country}国旗", [country, "国旗", "旗帜"]
    unique = dict.fromkeys(
        word.strip() for word in keywords if ":" not in word and "：" not in word
    )
    return Concept(
        code=code,
        name=name,
        keywords=tuple(word for word in unique if word and word != name),
        english=english[row["hexcode"]],
        group=meta["groups"][str(row["group"])],
        subgroup=subgroup,
    )


def _may_be_drawn(concept: Concept, members: set[str]) -> bool:
    if concept.code in MAPS or concept.subgroup == "subdivision-flag":
        return False
    if concept.subgroup == "country-flag":
        letters = [chr(int(part, 16) - 0x1F1E6 + ord("A")) for part in concept.code.split("-")]
        return "".join(letters) in members
    return True


def _annotations(packages: Path) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for package, folder, key in (
        ("annotations", "annotations", "annotations"),
        ("annotations-derived", "annotationsDerived", "annotationsDerived"),
    ):
        content = read_json(packages / package / folder / "zh/annotations.json")[key]["annotations"]
        for characters, value in content.items():
            code = "-".join(f"{ord(c):x}" for c in characters if ord(c) != 0xFE0F)
            whole[code] = value
    return whole


def _united_nations(packages: Path) -> set[str]:
    path = packages / "cldr-core/supplemental/territoryContainment.json"
    containment = read_json(path)["supplemental"]["territoryContainment"]
    return set(containment["UN"]["_contains"])
