"""Which format a path holds, and the reader of each."""

from collections.abc import Callable, Iterator
from pathlib import Path

from rapid_diffusion.datasets.folder import TABLE, read_folder, read_prepared
from rapid_diffusion.datasets.parquet import read_parquet
from rapid_diffusion.datasets.rows import Problem, Row
from rapid_diffusion.datasets.shards import ENDINGS, read_webdataset
from rapid_diffusion.datasets.tables import find_pair, read_pair, read_tsv
from rapid_diffusion.errors import InvalidRequestError

Reader = Callable[[Path], Iterator[Row | Problem]]

#: Format -> reader; `webdataset` may also be a pattern of shards.
READERS: dict[str, Reader] = {
    "folder": read_folder,
    "prepared": read_prepared,
    "tsv": read_tsv,
    "pair": read_pair,
    "webdataset": lambda path: read_webdataset(str(path)),
    "parquet": read_parquet,
}


def open_rows(path: str, file_format: str | None = None) -> Iterator[Row | Problem]:
    """The rows of `path`, and what is wrong with the others, one at a time.

    Raises `InvalidRequestError` (field `path` or `format`) where there is nothing to read.
    """
    if file_format is not None and file_format not in READERS:
        raise InvalidRequestError("format", f"{file_format!r}; allowed: {', '.join(READERS)}")
    chosen = file_format or recognise(path)
    if chosen != "webdataset" and not Path(path).exists():
        raise InvalidRequestError("path", f"{path}: no such file or folder")
    if chosen in ("folder", "prepared") and not (_folder(path) / TABLE).is_file():
        raise InvalidRequestError("path", f"{path}: no {TABLE} in it")
    if chosen == "prepared" and not any(_folder(path).glob("pictures_*.npy")):
        raise InvalidRequestError("path", f"{path}: no pictures_*.npy in it")
    return READERS[chosen](_pair_file(path) if chosen == "pair" else Path(path))


def recognise(path: str) -> str:
    """The format that `path` looks like; `InvalidRequestError` says what was looked for."""
    place = Path(path)
    if place.is_dir():
        return _recognise_folder(place)
    if path.endswith(ENDINGS):
        return "webdataset"
    if not place.exists():
        raise InvalidRequestError("path", f"{path}: no such file or folder")
    if place.suffix == ".parquet":
        return "parquet"
    if place.name == TABLE:
        return "prepared" if any(place.parent.glob("pictures_*.npy")) else "folder"
    if find_pair(place):
        return "pair"
    if place.suffix in (".tsv", ".txt"):
        return "tsv"
    raise InvalidRequestError("path", f"{path}: not a format known; say it with --format")


def _recognise_folder(folder: Path) -> str:
    if (folder / TABLE).is_file():
        return "prepared" if any(folder.glob("pictures_*.npy")) else "folder"
    names = [file.name for file in folder.iterdir()]
    if any(name.endswith(ENDINGS) for name in names):
        return "webdataset"
    if any(folder.rglob("*.parquet")):
        return "parquet"
    if _pairs(folder):
        return "pair"
    raise InvalidRequestError(
        "path",
        f"{folder}: neither {TABLE} nor tar shards, Parquet files or a pair of TSV files in it; "
        "say the format with --format, or name the file",
    )


def _folder(path: str) -> Path:
    place = Path(path)
    return place if place.is_dir() else place.parent


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    found = (find_pair(file) for file in sorted(folder.iterdir()) if file.is_file())
    return sorted({pair for pair in found if pair})


def _pair_file(path: str) -> Path:
    place = Path(path)
    if not place.is_dir():
        return place
    pairs = _pairs(place)
    if len(pairs) != 1:
        names = ", ".join(images.name for images, _ in pairs) or "none"
        raise InvalidRequestError("path", f"{path}: pairs of TSV files in it: {names}; name one")
    return pairs[0][0]
