"""One small store that holds every trait the room knows: senses, aliases, texts, weak surfaces."""

from pathlib import Path

import pytest

from knowledge.builder import BuildOptions, build_version

TRIPLES = [
    ("老虎", "属于", "猫科"),
    ("老虎", "颜色", "橙色"),
    ("苹果[公司]", "产品", "手机"),
    ("苹果[公司]", "属于", "公司"),
    ("苹果[水果]", "颜色", "红色"),
    ("苹果[水果]", "英文名", "apple"),
    ("北京大学", "位于", "北京"),
    ("北京", "属于", "城市"),
    ("大学", "属于", "学校"),
    ("龙", "属于", "神兽"),
]
ALIASES: list[tuple[str, str, float | None]] = [
    ("大虫", "老虎", 0.9),
    ("虎", "老虎", 1.0),
    ("101", "老虎", 1.0),
    ("tiger", "老虎", None),
    ("🐯", "老虎", None),
    ("苹果", "苹果[公司]", 0.7),
    ("苹果", "苹果[水果]", 0.3),
]
OPTIONS = BuildOptions(literal_relations=frozenset({"英文名"}))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one active version, without vectors."""
    build_version(TRIPLES, ALIASES, tmp_path / "store", options=OPTIONS)
    return tmp_path / "store"
