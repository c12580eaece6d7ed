"""A data set of eighteen small pictures, a second micro model, and one report for all tests."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rapid_diffusion import RapidDiffusionPipeline
from rapid_diffusion.evaluation import judge, run
from rapid_diffusion.evaluation.report import Recognition

SUBJECTS = ("老虎", "猫", "红苹果")
STYLES = ("卡通", "扁平", "三维", "立体", "大", "画")


def write_rows(folder: Path, rows: list[dict]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="session", autouse=True)
def _small_judge():
    """The judge looks at 64 pixels instead of 224: a twelfth of the work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "SIZE", 64)
        yield


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> Path:
    """Three subjects in six styles, one of each held out, as the recipe writes its rows."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    ground = generator.integers(0, 256, (3, 4, 4, 3), np.uint8).repeat(12, 1).repeat(12, 2)
    pictures, rows = [], []
    for place in range(18):
        subject, style = SUBJECTS[place % 3], STYLES[place // 3]
        noise = generator.integers(0, 40, (48, 48, 3), np.uint8)
        pictures.append(ground[place % 3] // 2 + noise)
        rows.append(
            {
                "code": subject,
                "entity": subject,
                "name": subject,
                "subgroup": "水果" if subject == "红苹果" else "动物",
                "style": style,
                "split": "held_out" if place % 5 == 4 else "train",
                "held_out_aliases": ["大虫"] if subject == "老虎" else [],
                "captions": [f"{style}风格的{subject}"],
            }
        )
    np.save(folder / "large.npy", np.stack(pictures))
    write_rows(folder, rows)
    return folder


@pytest.fixture(scope="session")
def plain_folder(data_folder, tmp_path_factory) -> Path:
    """The same pictures as files, with captions and a split and nothing else."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("plain")
    lines = (data_folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for place, pixels in enumerate(np.load(data_folder / "large.npy")):
        Image.fromarray(pixels[: 40 + place % 2]).save(folder / f"{place}.png")
    write_rows(
        folder,
        [
            {"captions": row["captions"], "split": row["split"], "file_name": f"{place}.png"}
            for place, row in enumerate(rows)
        ],
    )
    return folder


@pytest.fixture(scope="session")
def other_model(micro_model_folder, tmp_path_factory) -> Path:
    """A model that draws something else."""
    pipe = RapidDiffusionPipeline.from_pretrained(micro_model_folder)
    with torch.no_grad():
        pipe.model.denoiser.draft.output.weight.mul_(3)
    folder = tmp_path_factory.mktemp("other") / "model"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def recognition(data_folder) -> Recognition:
    return Recognition(data_folder)


@pytest.fixture(scope="session")
def report_folder(micro_model_folder, other_model, data_folder, tmp_path_factory) -> Path:
    """Where the report of the micro model against the other one lies."""
    out = tmp_path_factory.mktemp("out") / "new" / "report"
    run(micro_model_folder, data_folder, out, against=other_model, seeds=2, pictures=6)
    return out


@pytest.fixture(scope="session")
def report(report_folder) -> dict:
    return json.loads((report_folder / "report.json").read_text(encoding="utf-8"))
