import random
from pathlib import Path

import numpy as np
import pytest

from knowledge.builder import BuildOptions, add_vectors, build_version
from knowledge.errors import BuildError, InvalidInputError
from knowledge.graph import KnowledgeGraph


def test_the_same_facts_in_any_order_give_the_same_version(tmp_path: Path) -> None:
    triples = [(f"实体{i}", "相关", f"实体{i * 7 % 50}") for i in range(50)]
    aliases = [(f"别名{i}", f"实体{i % 9}", 0.5) for i in range(30)]
    first = build_version(triples, aliases, tmp_path / "a")
    random.Random(0).shuffle(triples)
    second = build_version(triples * 2, aliases[::-1], tmp_path / "b")
    assert first.name == second.name
    assert all((second / f.name).read_bytes() == f.read_bytes() for f in first.iterdir())


def test_building_twice_in_one_store_keeps_the_first_files(tmp_path: Path) -> None:
    first = build_version([("甲", "是", "乙")], [], tmp_path)
    inode = (first / "ent_key.bin").stat().st_ino
    assert build_version([("甲", "是", "乙")], [], tmp_path) == first
    assert (first / "ent_key.bin").stat().st_ino == inode
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["CURRENT", first.name])


def test_refused_facts_are_counted_by_reason(tmp_path: Path) -> None:
    triples = [("甲", "是", "乙"), ("", "是", "乙"), ("甲", " ", "乙"), ("甲", "是", "\ud800")]
    aliases = [("丙", "甲", 1.5), ("丁", "甲", float("nan")), ("戊", "", None)]
    build_version(triples, aliases, tmp_path)
    graph = KnowledgeGraph.open(tmp_path)
    assert graph.stats["triples"] == 1
    assert graph.stats["refused"] == {
        "alias: empty field": 1,
        "alias: prior outside (0, 1]": 2,
        "triple: NUL, line break or not UTF-8": 1,
        "triple: empty field": 2,
    }


@pytest.mark.parametrize("row", [("甲", "是"), ("甲", "是", 3), ("甲", "是", "乙", "丙")])
def test_a_row_of_the_wrong_shape_or_type_is_refused(tmp_path: Path, row: tuple) -> None:
    with pytest.raises(InvalidInputError, match="wanted 3 strings"):
        build_version([row], [], tmp_path)


def test_a_surface_that_no_text_can_hold_is_refused(tmp_path: Path) -> None:
    build_version([("甲", "是", "乙")], [("\ud800", "甲", 1.0), ("\ufe0f", "甲", 1.0)], tmp_path)
    refused = KnowledgeGraph.open(tmp_path).stats["refused"]
    assert refused == {"alias: NUL, line break or not UTF-8": 1, "alias: empty field": 1}


def test_nothing_to_build_from_is_an_error_and_leaves_no_store(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no fact"):
        build_version([], [], tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_objects_that_are_no_subjects_stay_text_if_asked(tmp_path: Path) -> None:
    triples = [("甲", "是", "乙"), ("甲", "有", "丙"), ("丙", "是", "丁")]
    build_version(triples, [], tmp_path, options=BuildOptions(objects="subjects"))
    graph = KnowledgeGraph.open(tmp_path)
    assert len(graph) == 2
    assert {(t.text, t.object >= 0) for t in graph.neighbours("甲")} == {
        ("乙", False),
        ("丙", True),
    }


def test_an_alias_takes_the_surface_of_a_mere_object(tmp_path: Path) -> None:
    triples = [("老虎", "属于", "动物"), ("老虎", "别称", "大虫")]
    build_version(triples, [("大虫", "老虎", 0.4)], tmp_path)
    graph = KnowledgeGraph.open(tmp_path)
    assert [link.key for link in graph.link("大虫是动物")] == ["老虎", "动物"]


def test_mere_objects_are_not_linked_if_asked(tmp_path: Path) -> None:
    triples = [("老虎", "属于", "动物")]
    build_version(triples, [], tmp_path, options=BuildOptions(link_objects=False))
    assert [link.key for link in KnowledgeGraph.open(tmp_path).link("老虎是动物")] == ["老虎"]


def test_entities_that_share_a_name_share_its_prior_by_degree(tmp_path: Path) -> None:
    triples = [("铁[金属]", "是", "金属"), ("铁[金属]", "色", "灰"), ("铁[姓]", "是", "姓氏")]
    build_version(triples, [("铁铁", "铁[金属]", None), ("铁铁", "铁[姓]", None)], tmp_path)
    (link,) = KnowledgeGraph.open(tmp_path).link("铁铁")
    priors = {candidate.key: candidate.prior for candidate in link.candidates}
    assert priors == pytest.approx({"铁[金属]": 0.6, "铁[姓]": 0.4}, abs=1e-3)


def test_vectors_make_a_new_version_and_leave_the_old_one(store: Path) -> None:
    old = KnowledgeGraph.open(store)
    before = {path.name: path.read_bytes() for path in old.path.iterdir()}
    rows = np.random.default_rng(0).normal(size=(len(old), 8)).astype(np.float32)
    new = KnowledgeGraph.open(add_vectors(old.path, rows), verify="full")
    assert new.version != old.version
    assert {path.name: path.read_bytes() for path in old.path.iterdir()} == before
    np.testing.assert_array_equal(new.vectors(range(len(new))), rows.astype(np.float16))
    assert KnowledgeGraph.open(store).version == new.version


@pytest.mark.parametrize("bad", [np.zeros((3, 8)), np.zeros(4), np.full((16, 2), np.nan)])
def test_vectors_that_do_not_fit_are_refused_and_nothing_changes(
    store: Path, bad: np.ndarray
) -> None:
    graph = KnowledgeGraph.open(store)
    entries = sorted(store.iterdir())
    with pytest.raises(InvalidInputError, match="vectors"):
        add_vectors(graph.path, bad)
    assert sorted(store.iterdir()) == entries


def test_a_full_disk_leaves_no_half_version(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    entries = sorted(store.iterdir())
    monkeypatch.setattr("knowledge.storage.np.save", no_space)
    with pytest.raises(BuildError, match="No space left"):
        build_version([("新", "是", "旧")], [], store)
    assert sorted(store.iterdir()) == entries


def test_entities_are_called_by_their_keys_less_a_sense(tmp_path: Path) -> None:
    called = {
        "苹果[公司]": "苹果",
        "a [b] [c]": "a [b]",
        "宽\u3000[义]": "宽",
        "窄\u00a0[义]": "窄",
        "[全]": "[全]",
        " [全]": "[全]",
        "无]": "无]",
        "[无": "[无",
        "[无]尾": "[无]尾",
    }
    graph = KnowledgeGraph.open(build_version([(k, "是", "物") for k in called], [], tmp_path))
    assert {key: graph.name(graph.entity(key.strip())) for key in called} == called
