"""Damage of every kind is refused with the name of the file."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from knowledge.builder import add_vectors, build_version
from knowledge.errors import (
    DamagedVersionError,
    IncompatibleVersionError,
    InvalidInputError,
    MissingVersionError,
    VersionError,
)
from knowledge.graph import KnowledgeGraph
from knowledge.versions import activate

FILES = [
    "cand_id.npy",
    "cand_prior.npy",
    "ent_degree.npy",
    "ent_key.bin",
    "ent_key.off.npy",
    "ent_name.bin",
    "ent_name.off.npy",
    "names.marisa",
    "relation_vectors.safetensors",
    "relations.txt",
    "surf_ptr.npy",
    "tri_obj.npy",
    "tri_ptr.npy",
    "tri_rel.npy",
    "val.bin",
    "val_off.npy",
    "vectors.safetensors",
]


@pytest.fixture
def version(store: Path) -> Path:
    graph = KnowledgeGraph.open(store)
    vectors = np.ones((len(graph), 4), np.float32)
    return add_vectors(graph.path, vectors, np.ones((len(graph.relations), 4), np.float32))


def test_these_are_all_files_of_a_version(version: Path) -> None:
    assert sorted(path.name for path in version.iterdir()) == sorted([*FILES, "manifest.json"])


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_truncated_file_is_refused_by_name(version: Path, name: str) -> None:
    content = (version / name).read_bytes()
    (version / name).write_bytes(content[:-1])
    with pytest.raises(DamagedVersionError, match="bytes, the manifest says") as raised:
        KnowledgeGraph.open(version)
    assert raised.value.path == version / name
    (version / name).unlink()
    with pytest.raises(DamagedVersionError, match="is missing") as raised:
        KnowledgeGraph.open(version)
    assert raised.value.path == version / name


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found_by_the_full_check(version: Path, name: str) -> None:
    content = bytearray((version / name).read_bytes())
    content[len(content) // 2] ^= 1
    (version / name).write_bytes(content)
    with pytest.raises(DamagedVersionError, match="sha256") as raised:
        KnowledgeGraph.open(version, verify="full")
    assert raised.value.path == version / name


@pytest.mark.parametrize("name", ["tri_obj.npy", "tri_ptr.npy", "surf_ptr.npy", "val_off.npy"])
def test_a_damaged_array_header_never_escapes_as_a_foreign_error(version: Path, name: str) -> None:
    content = (version / name).read_bytes()
    shape = content.index(b"(") + 1
    damages = [(place, content[place] ^ 8) for place in range(0, 128, 8)]
    for place, byte in [*damages, (shape, ord("0")), (content.index(b"<"), ord(">"))]:
        damaged = bytearray(content)
        damaged[place] = byte
        (version / name).write_bytes(damaged)
        with contextlib.suppress(DamagedVersionError):
            KnowledgeGraph.open(version)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"version": "x"}', "\udcff"])
def test_a_manifest_that_is_none_is_refused(version: Path, content: str) -> None:
    (version / "manifest.json").write_text(content, "utf-8", "surrogateescape")
    with pytest.raises(DamagedVersionError, match=r"manifest\.json"):
        KnowledgeGraph.open(version)


def test_an_edited_manifest_no_longer_fits_its_name(version: Path) -> None:
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["stats"]["dimension"] = 5
    (version / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedVersionError, match="it was changed"):
        KnowledgeGraph.open(version)


def test_another_format_number_is_refused(version: Path) -> None:
    manifest = json.loads((version / "manifest.json").read_text())
    (version / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(IncompatibleVersionError, match="has format 2, this code reads 1"):
        KnowledgeGraph.open(version)


def test_a_version_under_the_name_of_another_is_refused(store: Path, version: Path) -> None:
    other = store / ("0" * 16)
    shutil.copytree(version, other)
    (store / "CURRENT").write_text(other.name)
    with pytest.raises(IncompatibleVersionError, match=f"is version {version.name}"):
        KnowledgeGraph.open(store)


@pytest.mark.parametrize("name", ["../elsewhere", "", "/etc", "0" * 16])
def test_a_current_that_names_no_version_is_refused(store: Path, name: str) -> None:
    (store / "CURRENT").write_text(name)
    with pytest.raises(VersionError):
        KnowledgeGraph.open(store)


def test_a_place_without_versions_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingVersionError, match="build one first"):
            KnowledgeGraph.open(path)


def test_activate_switches_back_and_forth(store: Path, version: Path) -> None:
    other = build_version([("甲", "是", "乙")], [], store)
    assert KnowledgeGraph.open(store).version == other.name
    activate(store, version.name)
    assert KnowledgeGraph.open(store).version == version.name


@pytest.mark.parametrize("damage", ["flip", "remove", "unknown"])
def test_a_failed_activate_leaves_the_old_current(store: Path, version: Path, damage: str) -> None:
    other = build_version([("甲", "是", "乙")], [], store)
    if damage == "flip":
        content = (version / "tri_obj.npy").read_bytes()
        (version / "tri_obj.npy").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "remove":
        (version / "val.bin").unlink()
    with pytest.raises(VersionError):
        activate(store, "f" * 16 if damage == "unknown" else version.name)
    assert (store / "CURRENT").read_text() == other.name + "\n"


def test_a_level_of_checking_that_does_not_exist_is_refused(store: Path) -> None:
    with pytest.raises(InvalidInputError, match="verify is 'fast'"):
        KnowledgeGraph.open(store, verify="fast")  # type: ignore[arg-type]


def test_an_open_graph_survives_new_versions(store: Path) -> None:
    graph = KnowledgeGraph.open(store)
    build_version([("甲", "是", "乙")], [], store)
    assert [link.key for link in graph.link("北京大学")] == ["北京大学"]
