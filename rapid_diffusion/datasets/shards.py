"""WebDataset: tar shards whose files share a key, `000017.jpg` with `000017.txt` or `.json`."""

import glob
import gzip
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from rapid_diffusion.datasets.rows import (
    CAPTION_KEYS,
    MOST_BYTES,
    PICTURE_SUFFIXES,
    Problem,
    Row,
    RowError,
    captions_of,
    check_caption,
    check_name,
    decode_text,
    facts_of,
    natural,
    parse_object,
    printable,
)
from rapid_diffusion.datasets.seen import Seen
from rapid_diffusion.datasets.tar import Damage, Member, members, read_at
from rapid_diffusion.errors import InvalidRequestError

ENDINGS = (".tar", ".tar.gz", ".tgz")
_NAME = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<ending>[^/]*)", re.S)
_NUMBERS = re.compile(r"(\d+)\.\.(\d+)")
_MOST_SHARDS = 1_000_000


@dataclass
class Sample:
    """The members that share a key, by ending: `picture`, `txt`, `json`."""

    key: str
    parts: dict[str, Member] = field(default_factory=dict)
    flaw: str | None = None


def find_shards(pattern: str) -> list[Path]:
    """The shards of a folder, a file, a glob, or braces (`{000..099}`, `{a,b}`), in order.

    Braces name their shards, so one that is missing is in the list; a glob finds what there is.
    Raises `InvalidRequestError` where there is none.
    """
    if Path(pattern).is_dir():
        files = [file for file in Path(pattern).iterdir() if file.name.endswith(ENDINGS)]
    elif Path(pattern).exists():
        files = [Path(pattern)]
    else:
        files = [file for name in expand_braces(pattern) for file in _globbed(name)]
    if not any(file.is_file() for file in files):
        raise InvalidRequestError("path", f"{pattern}: no shard is there ({', '.join(ENDINGS)})")
    return sorted(dict.fromkeys(files), key=lambda file: natural(str(file)))


def expand_braces(pattern: str) -> list[str]:
    """`a-{08..10}.tar` -> a-08.tar, a-09.tar, a-10.tar; `{a,b}` -> a, b; several multiply."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    if numbers := _NUMBERS.fullmatch(match[1]):
        first, last = (int(number) for number in numbers.groups())
        if last - first >= _MOST_SHARDS:
            raise InvalidRequestError("path", f"{pattern}: more than {_MOST_SHARDS} shards")
        words = [str(n).zfill(len(numbers[1])) for n in range(first, last + 1)]
    else:
        words = match[1].split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for word in words for name in expand_braces(before + word + after)]


def _globbed(name: str) -> list[Path]:
    return [Path(n) for n in sorted(glob.glob(name))] if glob.has_magic(name) else [Path(name)]


def read_webdataset(pattern: str) -> Iterator[Row | Problem]:
    """Every row of every shard, in order; only one row is in memory."""
    for shard in find_shards(pattern):
        try:
            with open_shard(shard) as file:
                yield from _rows(shard, file)
        except OSError as error:
            yield Problem(shard.name, f"the shard cannot be read ({error.strerror or error})")


def _rows(shard: Path, file: BinaryIO) -> Iterator[Row | Problem]:
    with Seen() as seen:
        for part in whole_samples(file, shard.name):
            if isinstance(part, Problem):
                yield part
                continue
            where = f"{shard.name}:{printable(part.key)}"
            try:
                if part.flaw:
                    raise RowError(part.flaw)
                if seen.first(part.key, where):
                    raise RowError("the key was given before in this shard")
                yield row_of(file, part.parts, where)
            except RowError as error:
                yield Problem(where, str(error))


def open_shard(shard: Path) -> BinaryIO:
    """The tar file; one in gzip is unpacked into a temporary file first, as far as it is sound.

    A compressed stream can only be read forwards, and a row is whole only when the next one begins.
    """
    if not shard.name.endswith(ENDINGS[1:]):
        return shard.open("rb", buffering=1 << 16)
    unpacked = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  the caller closes it
    with gzip.open(shard, "rb") as packed:
        while block := read_at(cast(BinaryIO, packed), unpacked.tell(), 1 << 20):
            unpacked.write(block)
    return unpacked


def whole_samples(file: BinaryIO, shard: str) -> Iterator[Sample | Problem]:
    """Neighbouring members with one key as one sample; `flaw` says why it is no row."""
    sample: Sample | None = None
    for member in members(file):
        if isinstance(member, Damage):
            yield Problem(shard, f"the shard is {member.reason}")
            continue
        # Files that macOS puts beside the real ones.
        if member.name.rpartition("/")[2].startswith("._"):
            continue
        match = _NAME.fullmatch(member.name.removeprefix("./"))
        if match is None:
            yield Problem(f"{shard}:{printable(member.name)}", "its name gives no key")
            continue
        if sample is not None and sample.key != match["key"]:
            yield _finished(sample)
            sample = None
        sample = sample or Sample(match["key"])
        _add(sample, match["ending"].lower(), member)
    if sample is not None:
        yield _finished(sample)


def _add(sample: Sample, ending: str, member: Member) -> None:
    kind = "picture" if ending in PICTURE_SUFFIXES else ending
    if kind not in ("picture", "txt", "json"):
        return
    if kind in sample.parts:
        sample.flaw = f"a second .{ending}; the key was given before"
    elif not member.plain:
        sample.flaw = f".{ending} is a link or a device, not a file"
    elif member.size > MOST_BYTES:
        sample.flaw = f".{ending} has {member.size} bytes; {MOST_BYTES >> 20} MiB are allowed"
    sample.parts[kind] = member


def _finished(sample: Sample) -> Sample:
    if ".." in sample.key or "\0" in sample.key or sample.key.startswith("/"):
        try:
            check_name(sample.key)
        except RowError as error:
            sample.flaw = sample.flaw or str(error)
    if "picture" not in sample.parts:
        sample.flaw = sample.flaw or "no picture (.jpg, .png, .webp)"
    elif sample.parts.keys() == {"picture"}:
        sample.flaw = sample.flaw or "no caption (.txt or .json)"
    return sample


def row_of(file: BinaryIO, parts: dict[str, Member], where: str) -> Row:
    """Read a sample's members; `RowError` says what is wrong with them.

    The sentence is the `.txt`, or `captions`, `caption` or `text` of the `.json`.
    """
    captions, facts = words_of(file, parts)
    return Row(content_of(file, parts["picture"]), captions, facts, where)


def words_of(file: BinaryIO, parts: dict[str, Member]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The captions and facts of a sample."""
    record = parse_object(content_of(file, parts["json"])) if "json" in parts else {}
    if "txt" not in parts:
        return captions_of(record), facts_of(record)
    text = check_caption(decode_text(content_of(file, parts["txt"])))
    more = captions_of(record) if any(record.get(key) is not None for key in CAPTION_KEYS) else ()
    return tuple(dict.fromkeys((text, *more))), facts_of(record)


def content_of(file: BinaryIO, member: Member) -> bytes:
    """A member's bytes, all of them."""
    content = read_at(file, member.offset, member.size)
    if len(content) < member.size:
        raise RowError(f"{member.name} is cut off: {len(content)} bytes of {member.size}")
    return content
