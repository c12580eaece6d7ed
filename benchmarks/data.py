"""Training from a WebDataset of a million rows: `python benchmarks/data.py --folder DIR`.

Makes the shards in DIR (a few pictures of 16x16 pixels, reused; every row has its own sentence),
then, each in a process of its own:
    cold         seconds from opening the set to the first batch, nothing indexed before
    warm, late   the same for the last step of the last pass, on the index that is there then
    memory       resident megabytes after so many batches: flat means that they do not grow
Beyond --distinct shards, a shard is a hard link to an earlier one: 40 of 10,000 rows are 0.8 GB.
Writes its figures into the JSON file named by --out.
"""

import argparse
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PICTURES = 64
BLOCK = 512
NAME_DIGITS = 9
SENTENCE = "第{:09d}个老虎，卡通风格"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="made, and removed at the end")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rows-per-shard", type=int, default=10_000)
    parser.add_argument("--distinct", type=int, default=40, help="shards that are not links")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[1_000, 5_000, 10_000, 20_000])
    parser.add_argument("--keep", action="store_true", help="do not remove the shards")
    parser.add_argument("--out", type=Path, default=Path("docs/results/data.json"))
    parser.add_argument("--part", choices=["first", "memory"], help=argparse.SUPPRESS)
    parser.add_argument("--step", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        measured = first_batch(options) if options.part == "first" else memory(options)
        print(json.dumps(measured))
        return
    if options.folder.exists():
        raise SystemExit(f"{options.folder} exists; name a folder that does not, or remove it")
    report = measure(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    print(json.dumps(report, ensure_ascii=False, indent=1))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make the set, measure, remove it."""
    from rapid_diffusion.testing import build_micro_graph

    try:
        started = time.perf_counter()
        make_shards(options)
        seconds = time.perf_counter() - started
        build_micro_graph(options.folder / "graph")
        cold = part(options, "first", 0)
        resident = part(options, "memory", 0)
        warm = part(options, "first", max(options.batches) - 1)
    finally:
        if not options.keep:
            shutil.rmtree(options.folder, ignore_errors=True)
    return {
        "command": " ".join(["python", *sys.argv]),
        "machine": {"processor": platform.processor(), "cores": os.cpu_count()},
        "rows": options.rows,
        "shards": -(-options.rows // options.rows_per_shard),
        "distinct_shards": options.distinct,
        "seconds_to_make": round(seconds, 1),
        "batch": options.batch,
        "cold_first_batch": cold,
        "warm_late_batch": warm,
        "memory": resident,
    }


def part(options: argparse.Namespace, name: str, step: int) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--part", name, "--step", str(step)]
    command += ["--folder", str(options.folder), "--batch", str(options.batch)]
    command += ["--batches", *map(str, options.batches)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def first_batch(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds from opening the set to the pictures and sentences of a step."""
    examples_of(options)  # imports and the graph's pages are the same for every set
    started, used = time.perf_counter(), time.process_time()
    examples = examples_of(options)
    opened = time.perf_counter()
    show(examples, options.step, options.batch)
    ended = time.perf_counter()
    return {
        "step": options.step,
        "seconds_to_open": round(opened - started, 3),
        "seconds_to_batch": round(ended - started, 3),
        # Much less than the seconds if other programs had the cores.
        "cpu_seconds_to_batch": round(time.process_time() - used, 3),
    }


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Resident memory and rate after each of the wanted numbers of batches."""
    examples = examples_of(options)
    started, used = time.perf_counter(), time.process_time()
    figures, done = [], 0
    for wanted in (1, *sorted(options.batches)):
        for step in range(done, wanted):
            show(examples, step, options.batch)
        done = wanted
        seconds = time.perf_counter() - started
        figures.append(
            {
                "batches": done,
                "rows": done * options.batch,
                "resident_megabytes": resident_megabytes(),
                "rows_per_second": round(done * options.batch / seconds),
                "rows_per_cpu_second": round(done * options.batch / (time.process_time() - used)),
            }
        )
    return {"after": figures, "refused": len(examples.refusals.problems)}


def examples_of(options: argparse.Namespace) -> Any:
    """The set as a training opens it."""
    from rapid_diffusion.training.config import DataConfig
    from rapid_diffusion.training.streaming import ShardExamples

    config = DataConfig(str(options.folder), shards="shard-*.tar", size=16, large_size=64)
    return ShardExamples(config, 32, options.folder / "run")


def show(examples: Any, step: int, batch: int) -> None:
    """What a stage asks for at a step."""
    from rapid_diffusion.training.data import step_generator

    indices = examples.indices(step, batch, 0)
    pictures = examples.picture_batch(indices)
    tokens = examples.sentences(indices, step_generator(0, step))
    assert pictures.shape[0] == tokens.ids.shape[0] == batch


def resident_megabytes() -> float:
    """Of this process, now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def make_shards(options: argparse.Namespace) -> None:
    """Write the shards, ten thousand rows at once: a row is a template with digits filled in."""
    options.folder.mkdir(parents=True)
    templates = np.stack([row_template(number) for number in range(PICTURES)])
    for start in range(0, options.rows, options.rows_per_shard):
        shard = start // options.rows_per_shard
        path = options.folder / f"shard-{shard:05d}.tar"
        if shard >= options.distinct:
            os.link(options.folder / f"shard-{shard % options.distinct:05d}.tar", path)
            continue
        numbers = np.arange(start, min(start + options.rows_per_shard, options.rows))
        with path.open("wb") as file:
            file.write(filled(templates, numbers).tobytes())
            file.write(bytes(2 * BLOCK))


def row_template(number: int) -> NDArray[np.uint8]:
    """One row as tar blocks: header, picture, header, sentence; the number in both is 0."""
    colours = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    picture = io.BytesIO()
    Image.fromarray(np.kron(colours, np.ones((4, 4, 1), np.uint8))).save(picture, "PNG")
    content = b""
    for ending, data in (("png", picture.getvalue()), ("txt", SENTENCE.format(0).encode())):
        info = tarfile.TarInfo(f"{0:0{NAME_DIGITS}d}.{ending}")
        info.size = len(data)
        assert len(data) <= BLOCK
        content += info.tobuf(tarfile.USTAR_FORMAT) + data.ljust(BLOCK, b"\0")
    return np.frombuffer(content, np.uint8)


def filled(templates: NDArray[np.uint8], numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The rows of these numbers: digits in both names and in the sentence, checksums corrected."""
    rows = templates[numbers % PICTURES].copy()
    powers = 10 ** np.arange(NAME_DIGITS - 1, -1, -1)
    digits = (numbers[:, None] // powers % 10).astype(np.uint8)
    first = len("第".encode())
    for place in (0, 2 * BLOCK, 3 * BLOCK + first):
        rows[:, place : place + NAME_DIGITS] = digits + ord("0")
    for header in (0, 2 * BLOCK):
        rows[:, header + 148 : header + 156] = ord(" ")
        sums = rows[:, header : header + BLOCK].sum(1, dtype=np.int64)
        octal = (sums[:, None] // 8 ** np.arange(5, -1, -1) % 8).astype(np.uint8) + ord("0")
        rows[:, header + 148 : header + 154] = octal
        rows[:, header + 154] = 0
    return rows


if __name__ == "__main__":
    main()
