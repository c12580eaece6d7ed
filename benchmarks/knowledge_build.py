"""Building from a large file: `python benchmarks/knowledge_build.py --rows N [N ...] [--out FILE]`.

Made-up rows in OwnThink's form, in no order: five a subject or as many as `--each` says, one
subject in eight with a sense in brackets, one row in ten an alias. Each build is a process of its
own: CPU seconds of all of it, reading to complete files, and the peak of its resident memory
(Linux).
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

# benchmarks/knowledge_build.py would hide the package: the folder above comes first instead.
_ROOT = Path(__file__).parents[1]
_FIRST = 0x4E00  # of 3,000 Chinese characters
_BLOCK = 200_000
_BUILD = """
import json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from knowledge.builder import BuildOptions, build_from_file
from knowledge.versions import check_version
options = BuildOptions(objects="subjects", activate=False)
start, seconds, stages = time.process_time(), time.process_time(), {}
def progress(stage, part):
    global seconds
    now = time.process_time()
    stages[progress.last] = round(stages.get(progress.last, 0) + now - seconds, 2)
    progress.last, seconds = stage, now
progress.last = "read"
version = build_from_file(sys.argv[1], "ownthink", sys.argv[2], options=options, progress=progress)
progress("", 1.0)
cpu = time.process_time() - start
stages.pop("", None)
rows = Path("/proc/self/status").read_text().splitlines()
peak = next(int(row.split()[1]) for row in rows if row.startswith("VmHWM"))
sizes = {path.name: path.stat().st_size for path in version.iterdir()}
print(json.dumps({"cpu_seconds": round(cpu, 2), "peak_mib": round(peak / 1024), "stages": stages,
    "bytes": sum(sizes.values()), "stats": check_version(version).stats}))
"""


def write_rows(path: Path, count: int, each: int) -> None:
    """Write a header and `count` rows, about `each` a subject, a block at a time."""
    chance = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        file.write("实体,属性,值\n")
        for first in range(0, count, _BLOCK):
            size = min(_BLOCK, count - first)
            subject, target = chance.integers(0, max(count // each, 1), (2, size)).tolist()
            relation = chance.integers(0, 300, size).tolist()
            kind = chance.integers(0, 10, size).tolist()
            file.writelines(map(_row, subject, relation, target, kind))


def _row(subject: int, relation: int, target: int, kind: int) -> str:
    key = _name(subject) + (f"[义{subject % 97}]" if subject % 8 == 0 else "")
    if kind == 0:
        return f"{key},别名,{_name(target)}号\n"
    # Half of the objects are subjects too, half are texts.
    value = _name(target) if kind % 2 else f"{_name(target)}是一段说明文字"
    return f"{key},关系{relation},{value}\n"


def _name(number: int) -> str:
    """A name of three characters or more, different for different numbers."""
    mixed, name = number * 2_654_435_761 % 2**32, ""
    while mixed or len(name) < 3:
        mixed, rest = divmod(mixed, 3000)
        name += chr(_FIRST + rest)
    return name


def measure(count: int, each: int, folder: Path) -> dict[str, Any]:
    """Build from `count` rows in `folder`, about `each` a subject."""
    path = folder / f"{count}.csv"
    write_rows(path, count, each)
    found = built(path, folder / "store")
    path.unlink()
    return {"rows": count, **found, "rows_per_cpu_second": round(count / found["cpu_seconds"])}


def built(path: Path, store: Path) -> dict[str, Any]:
    """Build from an OwnThink file in a process of its own: what it took, and what came of it."""
    command = [sys.executable, "-c", _BUILD, str(path), str(store), str(_ROOT)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    stats, seconds = found["stats"], found["cpu_seconds"]
    return {
        "input_bytes": path.stat().st_size,
        **{name: stats[name] for name in ("triples", "entities", "values", "surfaces")},
        "cpu_seconds": seconds,
        "cpu_seconds_by_stage": found["stages"],
        "triples_per_entity": round(stats["triples"] / stats["entities"], 1),
        "triples_per_cpu_second": round(stats["triples"] / seconds),
        "peak_mib": found["peak_mib"],
        "bytes_of_all_files_per_triple": round(found["bytes"] / stats["triples"], 1),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--each", type=int, default=5, help="rows a subject")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        builds = [measure(count, options.each, Path(folder)) for count in options.rows]
    rows = " ".join(map(str, options.rows))
    result = {
        "command": f"python benchmarks/knowledge_build.py --rows {rows} --each {options.each}",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "builds": builds,
    }
    text = json.dumps(result, ensure_ascii=False, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
