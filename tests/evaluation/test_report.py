"""The report as a whole: both files, the same numbers in both, nothing faked."""

import json
import re
from html import unescape
from html.parser import HTMLParser

import pytest

from rapid_diffusion import CheckpointError, InvalidRequestError, OutputError, cli
from rapid_diffusion.evaluation import run
from rapid_diffusion.evaluation.page import shown
from rapid_diffusion.evaluation.writing import write_report

SECTIONS = [
    "retrieval",
    "distances",
    "clip_score",
    "knowledge",
    "entity_types",
    "diversity",
    "nearest",
    "speed",
]


class Page(HTMLParser):
    """What a page says where, and every address in it."""

    def __init__(self, text):
        super().__init__()
        self.said, self.addresses, self.path = {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        names = dict(attrs)
        self.addresses += [names[name] for name in ("src", "href") if name in names]
        if self.path is None:
            self.path = names.get("data-at")

    def handle_endtag(self, tag):
        self.path = None

    def handle_data(self, data):
        if self.path is not None:
            self.said[self.path] = self.said.get(self.path, "") + data


@pytest.fixture(scope="module")
def page(report_folder):
    return Page((report_folder / "report.html").read_text(encoding="utf-8"))


def find(report, path):
    value = report
    for step in path.split("/"):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def rows_of(report, section, table=0):
    return {row["what"]: row for row in report["sections"][section]["tables"][table]["rows"]}


def test_every_number_of_the_page_is_that_of_the_json_and_none_is_missing(report, page):
    assert {path: unescape(shown(find(report, path))) for path in page.said} == page.said
    wanted = {
        f"sections/{name}/tables/{number}/rows/{place}/{key}"
        for name, section in report["sections"].items()
        for number, table in enumerate(section["tables"])
        for place, row in enumerate(table["rows"])
        for key in row
    }
    assert wanted == set(page.said)
    assert len(wanted) > 200


def test_the_page_needs_nothing_but_itself(report, page, report_folder):
    assert all(address.startswith(("data:image/webp;base64,", "#")) for address in page.addresses)
    text = (report_folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|@import|url\(|https?://", text)
    assert text.count("<figure>") == 3 * len(report["pictures"]) > 0
    assert len(text) < 500_000


def test_every_section_is_measured_and_has_both_models_and_their_difference(report):
    assert list(report["sections"]) == SECTIONS
    for name, section in report["sections"].items():
        assert "missing" not in section
        keys = {key for table in section["tables"] for row in table["rows"] for key in row}
        assert {"model", "against"} <= keys
        assert {"difference", "difference_interval"} <= keys or name == "speed"


def test_intervals_hold_their_values(report):
    for section in report["sections"].values():
        for row in (row for table in section["tables"] for row in table["rows"]):
            for name in ("real", "model", "against", "difference"):
                if f"{name}_interval" in row:
                    low, high = row[f"{name}_interval"]
                    assert low - 1e-9 <= row[name] <= high + 1e-9, (row, name)


def test_the_calibration_rises_with_the_percentile(report):
    for row in rows_of(report, "clip_score").values():
        values = [row[f"p{p}"] for p in (1, 5, 25, 50, 75, 95, 99)]
        assert values == sorted(values)
        assert -1 <= values[0] < values[-1] <= 1


def test_real_to_real_is_nearer_than_what_an_untrained_model_draws(report):
    rows = rows_of(report, "distances")
    for what in ("KID", "FID"):
        assert rows[what]["real"] < min(rows[what]["model"], rows[what]["against"])
    assert rows["FID"]["pictures"] == 6


def test_a_model_against_itself_differs_by_nothing(micro_model_folder, data_folder, tmp_path):
    report = run(
        micro_model_folder, data_folder, tmp_path, against=micro_model_folder, seeds=1, pictures=2
    )
    for name, section in report["sections"].items():
        for row in (row for table in section["tables"] for row in table["rows"]):
            if "difference" in row and name != "speed":
                assert (row["difference"], row["difference_interval"]) == (0, [0, 0])
    assert "two seeds" in report["sections"]["diversity"]["missing"]


def test_recall_is_what_the_benchmark_measures(report, recognition, micro_pipeline):
    measured = recognition.measure(micro_pipeline, 2)
    assert measured["concepts"] == 3
    for what, name in (("trained pairs", "trained_pairs"), ("held-out pairs", "held_out_pairs")):
        row = rows_of(report, "retrieval")[what]
        assert row["pictures"] == measured[name]["queries"]
        assert row["model"] == pytest.approx(measured[name]["at_1"], abs=1e-3)
        assert row["model_interval"] == pytest.approx(measured[name]["interval_1"], abs=1e-3)
    assert "held_out_aliases_knowledge_off" in measured


def test_knowledge_is_measured_on_aliases_and_names(report):
    assert list(rows_of(report, "knowledge")) == [
        f"{words}, {state}"
        for words in ("held-out aliases", "their names")
        for state in ("on", "off", "on less off")
    ]


def test_captions_pictures_and_a_split_are_enough(
    plain_folder, micro_model_folder, tmp_path, capsys
):
    command = ["evaluate", str(micro_model_folder), "--data", str(plain_folder)]
    assert cli.run([*command, "--out", str(tmp_path), "--seeds", "2", "--pictures", "3"]) == 0
    files = [tmp_path / "report.html", tmp_path / "report.json"]
    assert capsys.readouterr().out.splitlines() == [str(file) for file in files]
    text, report = (file.read_text(encoding="utf-8") for file in files)
    sections = json.loads(report)["sections"]
    missing = {name for name, section in sections.items() if "missing" in section}
    assert missing == {"retrieval", "entity_types"}
    assert text.count("Not measured:") == 2
    assert "do not say what they show" in sections["retrieval"]["missing"]
    assert "no `real`" in sections["diversity"]["notes"][0]
    assert next(iter(rows_of({"sections": sections}, "knowledge"))) == "trained pairs, on"


def test_what_a_model_lacks_is_named(plain_folder, micro_pipeline, tmp_path):
    folder = tmp_path / "bare"
    bare = type(micro_pipeline)(micro_pipeline.model.__class__(**vars(micro_pipeline.model)))
    bare.model.graph = bare.model.pair = None
    bare.save_pretrained(folder)
    sections = run(folder, plain_folder, tmp_path / "out", seeds=1, pictures=2)["sections"]
    assert "has an image tower" in sections["clip_score"]["missing"]
    assert "no model here has a knowledge graph" in sections["knowledge"]["missing"]


def test_a_report_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    write_report(tmp_path, {"format": 0}, "old")
    with pytest.raises(UnicodeEncodeError):
        write_report(tmp_path, {"format": 1}, "half a character: \ud800")
    with pytest.raises(ValueError, match="nan"):
        write_report(tmp_path, {"format": float("nan")}, "new")
    assert json.loads((tmp_path / "report.json").read_text()) == {"format": 0}
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.html"}
    assert (tmp_path / "report.html").read_text() == "old"


def test_impossible_wishes_are_refused_before_anything_is_drawn(
    micro_model_folder, data_folder, tmp_path
):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        run(micro_model_folder, data_folder, tmp_path / "file" / "out")
    with pytest.raises(InvalidRequestError, match="pictures"):
        run(micro_model_folder, data_folder, tmp_path / "out", pictures=0)
    with pytest.raises(CheckpointError, match="no-such"):
        run(micro_model_folder, data_folder, tmp_path / "out", against="no-such")
    with pytest.raises(CheckpointError, match=r"metadata\.jsonl"):
        run(micro_model_folder, tmp_path, tmp_path / "out")
