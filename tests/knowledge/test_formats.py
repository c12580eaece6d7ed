from pathlib import Path

import pytest

from knowledge.errors import FormatError, InvalidInputError
from knowledge.formats import read_facts


def write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "facts"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_jsonl_gives_triples_types_and_aliases(tmp_path: Path) -> None:
    line = (
        '{"subject": "老虎", "alias": ["大虫", ""], "type": "动物",'
        ' "data": [{"predicate": "颜色", "object": "橙色"}]}\n\n{"subject": "猫", "alias": null}\n'
    )
    facts = read_facts(write(tmp_path, line), "jsonl")
    assert facts.triples == [("老虎", "类型", "动物"), ("老虎", "颜色", "橙色")]
    assert facts.aliases == [("大虫", "老虎", None)]


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", '{"subject": 1}', '{"subject": "a", "data": [1]}']
)
def test_a_line_that_is_no_subject_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(FormatError, match="line 2") as raised:
        read_facts(write(tmp_path, '{"subject": "甲"}\n' + line), "jsonl")
    assert raised.value.line == 2


def test_ownthink_traps_are_read(tmp_path: Path) -> None:
    rows = (
        "实体,属性,值\r\n"
        '艺术[文化名词],定义,"美,\n与真"\r\n'
        "胶\0饴,别名,麦芽糖\r\n"
        "空,,值\r\n"
        "苹果,歧义关系,苹果[公司]\r\n"
        "只有,两个\r\n"
        "苹果,歧义关系,苹果[水果]\r\n"
        "苹果[公司],歧义权重,3\r\n"
        "苹果[水果],歧义权重,1\r\n"
    )
    facts = read_facts(write(tmp_path, "\ufeff" + rows), "ownthink")
    assert facts.triples == [("艺术[文化名词]", "定义", "美, 与真")]
    assert facts.aliases == [
        ("麦芽糖", "胶饴", None),
        ("苹果", "苹果[公司]", 0.75),
        ("苹果", "苹果[水果]", 0.25),
    ]
    assert facts.skipped == {"triple: empty field": 1, "row: not three fields": 1}


def test_senses_without_any_weight_get_no_prior(tmp_path: Path) -> None:
    rows = "实体,属性,值\n苹果,歧义关系,苹果[公司]\n苹果[公司],歧义权重,很多\n"
    facts = read_facts(write(tmp_path, rows), "ownthink")
    assert facts.aliases == [("苹果", "苹果[公司]", None)]
    assert facts.skipped.total() == 1


def test_a_foreign_header_an_unknown_format_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="header is not 实体,属性,值"):
        read_facts(write(tmp_path, "实体,属性,值\n".encode("gbk")), "ownthink")
    with pytest.raises(InvalidInputError, match="format is 'xml'"):
        read_facts(tmp_path / "facts", "xml")
    with pytest.raises(InvalidInputError, match="cannot read"):
        read_facts(tmp_path / "nowhere", "jsonl")
