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


def test_broken_quotes_cost_one_line_and_are_counted(tmp_path: Path) -> None:
    many = "".join(f"名{number},在,{number}\n" for number in range(100))
    rows = '实体,属性,值\n坏,引号,"不关\n好,属于,事实\n坏,"引"号,x\n尾,有,"引,号"\n' + many
    facts = read_facts(write(tmp_path, rows), "ownthink")
    assert facts.skipped == {"row: broken quotes": 2}
    assert ("好", "属于", "事实") in facts.triples
    assert ("尾", "有", "引,号") in facts.triples
    assert len(facts.triples) == 102


def test_bytes_that_are_no_utf_8_cost_their_line_only(tmp_path: Path) -> None:
    rows = "实体,属性,值\n好,是,真\n".encode() + "坏,是,假\n".encode("gbk") + "也,是,真".encode()
    facts = read_facts(write(tmp_path, rows), "ownthink")
    assert facts.triples == [("好", "是", "真"), ("也", "是", "真")]
    assert facts.skipped == {"triple: NUL, line break or not UTF-8": 1}


def test_cndbpedia_keeps_quotes_and_calls_a_sense_by_its_name(tmp_path: Path) -> None:
    rows = (
        '"1+8"时代广场\t中文名\t"1+8"时代广场\n'
        "苹果（蔷薇科苹果属果实）\tBaiduTAG\t水果\r\n"
        "苹果（蔷薇科苹果属果实）\t别名\t平安果\n"
        "苹果（蔷薇科苹果属果实）\tBaiduCARD\t落叶乔木,\u3000果实\t多余\n"
        "（空）\t\t值\n"
    )
    facts = read_facts(write(tmp_path, rows), "cndbpedia")
    apple = "苹果（蔷薇科苹果属果实）"
    assert facts.triples == [
        ('"1+8"时代广场', "中文名", '"1+8"时代广场'),
        (apple, "类型", "水果"),
    ]
    assert facts.aliases == [("平安果", apple, None), ("苹果", apple, None)]
    assert facts.skipped == {"row: not three fields": 1, "triple: empty field": 1}


PREFIXES = {
    "wd:": "http://www.wikidata.org/entity/",
    "wdt:": "http://www.wikidata.org/prop/direct/",
    "rdfs:": "http://www.w3.org/2000/01/rdf-schema#",
    "skos:": "http://www.w3.org/2004/02/skos/core#",
    "xsd:": "http://www.w3.org/2001/XMLSchema#",
}
WIKIDATA = r"""
# a comment
<wd:Q89> <wdt:P31> <wd:Q3314483> .
<wd:Q89> <rdfs:label> "\u82F9\u679C"@zh-hans .
<wd:Q89> <rdfs:label> "蘋果"@zh-hant .
<wd:Q89> <rdfs:label> "Apfel"@de .
<wd:Q89> <skos:altLabel> "apple fruit"@en .
<wd:Q89> <wdt:P2067> "+0.2"^^<xsd:decimal>. # mass
_:b0 <http://schema.org/description> "a \"quoted\"\tthing" .
<wd:Q89> "no predicate" .
<http://x> <http://y> "\q" .
"""


def test_ntriples_give_names_surfaces_and_facts(tmp_path: Path) -> None:
    text = WIKIDATA
    for short, full in PREFIXES.items():  # N-Triples have no prefixes: the file has them in full
        text = text.replace("<" + short, "<" + full)
    facts = read_facts(write(tmp_path, text), "ntriples")
    apple = "http://www.wikidata.org/entity/Q89"
    assert facts.names == {apple: "苹果"}
    assert facts.aliases == [("苹果", apple, None), ("apple fruit", apple, None)]
    assert facts.triples == [
        (apple, "类型", "http://www.wikidata.org/entity/Q3314483"),
        (apple, "http://www.wikidata.org/prop/direct/P2067", "+0.2"),
        ("_:b0", "http://schema.org/description", 'a "quoted" thing'),
    ]
    assert facts.skipped == {
        "label: in a language that is not linked": 1,
        "row: not an N-Triple": 1,
        "row: an escape that N-Triples does not have": 1,
    }


@pytest.mark.parametrize("header", ["", "surface,entity,prior\n", "\ufeffsurface,entity,prior\r\n"])
def test_aliases_with_and_without_a_prior(tmp_path: Path, header: str) -> None:
    rows = '大虫,老虎,0.9\nTiger,老虎,\n山君,老虎\n"a,b",老虎,1e-3\n错,老虎,许多\n多,老虎,2\n'
    facts = read_facts(write(tmp_path, header + rows), "aliases")
    assert sorted(facts.aliases, key=str) == [
        ("a,b", "老虎", 0.001),
        ("tiger", "老虎", None),
        ("大虫", "老虎", 0.9),
        ("山君", "老虎", None),
    ]
    assert facts.skipped == {
        "alias: prior is not a number": 1,
        "alias: prior outside (0, 1]": 1,
    }
