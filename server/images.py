"""Pictures that are answered by address: kept for a while, and given to the key that asked.

An answer's id begins with its time (milliseconds since 1970, 12 hexadecimal digits), so that an
address is known to be over when nothing of it is left; 80 random bits follow.
"""

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.encoding import EncodedImage
from server.errors import Problem, shown
from server.results import ResultStore

_ID = re.compile(r"img_[0-9a-f]{32}")
_ABOUT = "about.json"


@dataclass(frozen=True)
class KeptImage:
    """A picture's file as it was sent to the disk."""

    content: bytes
    mime_type: str
    pixel_sha256: str


class ImageStore:
    """Folders named after answers under `folder`: `0.png`, `1.png` … and whose they are.

    `quota`: the most bytes, jobs' results included. Safe to use from several threads.
    """

    def __init__(self, folder: Path, quota: int, hours: float) -> None:
        self._folder, self._quota, self._seconds = folder, quota, 3600 * hours
        self._store = ResultStore(folder)
        self._lock = threading.Lock()
        self._held = sum(map(_size, self._folders()))

    @property
    def held(self) -> int:
        """Bytes on the disk, and those promised to requests that are being drawn."""
        return self._held

    @contextmanager
    def room(self, size: int, others: int) -> Iterator[None]:
        """Hold `size` bytes inside the block, where `others` are taken by jobs.

        Raises `Problem` storage_unavailable where there are not so many.
        """
        with self._lock:
            taken = self._held + others
            if taken + size > self._quota:
                reason = f"{taken} of {self._quota} bytes are taken"
                raise Problem("storage_unavailable", values={"reason": reason}, retry_after=60.0)
            self._held += size
        try:
            yield
        finally:
            self._change(-size)

    def keep(self, answer_id: str, owner: str, images: list[EncodedImage]) -> int:
        """Write an answer's pictures; returns when they go, in seconds since 1970.

        Raises `Problem` storage_unavailable where the disk refuses.
        """
        facts = [{"mime_type": i.mime_type, "pixel_sha256": i.pixel_sha256} for i in images]
        about = json.dumps({"owner": owner, "images": facts}, ensure_ascii=False).encode()
        files = {_name(place, image.mime_type): image.content for place, image in enumerate(images)}
        try:
            self._change(self._store.write(answer_id, {**files, _ABOUT: about}))
        except OSError as error:
            reason = error.strerror or "disk"
            raise Problem(
                "storage_unavailable", values={"reason": reason}, retry_after=60.0
            ) from error
        return int(time.time() + self._seconds)

    def read(self, answer_id: str, index: str, owner: str) -> KeptImage:
        """One picture of this owner.

        Raises `Problem`: image_expired past its time, whoever asks for whatever; else
        image_not_found, whatever the reason is.
        """
        received = shown(f"{answer_id}/{index}")
        missing = Problem("image_not_found", values={"received": received})
        if not _ID.fullmatch(answer_id) or not re.fullmatch(r"[0-9]", index):
            raise missing
        if int(answer_id[4:16], 16) / 1000 + self._seconds < time.time():
            hours = f"{self._seconds / 3600:g}"
            raise Problem("image_expired", values={"received": received, "allowed": hours})
        folder = self._folder / answer_id
        try:
            about: dict[str, Any] = json.loads((folder / _ABOUT).read_bytes())
            if about["owner"] != owner:
                raise missing
            facts = about["images"][int(index)]
            content = (folder / _name(int(index), facts["mime_type"])).read_bytes()
        except (OSError, ValueError, LookupError):  # not there, swept just now, or damaged
            raise missing from None
        return KeptImage(content, facts["mime_type"], facts["pixel_sha256"])

    def sweep(self) -> None:
        """Remove what interrupted writes left, and what is past its time."""
        self._store.sweep()
        now = time.time()
        for folder in self._folders():
            if self._is_old(folder, now):
                size = _size(folder)
                shutil.rmtree(folder, ignore_errors=True)
                self._change(-size)

    def _is_old(self, folder: Path, now: float) -> bool:
        return folder.stat().st_mtime + self._seconds < now

    def _folders(self) -> list[Path]:
        return [folder for folder in self._folder.iterdir() if _ID.fullmatch(folder.name)]

    def _change(self, size: int) -> None:
        with self._lock:
            self._held += size


@dataclass(frozen=True)
class Addresses:
    """Where the pictures of one request go, and what they are called then."""

    store: ImageStore
    owner: str
    base: str  # http://host:port, or empty

    def keep(self, answer_id: str, images: list[EncodedImage]) -> list[dict[str, Any]]:
        """Each picture's `url` and `expires_at`. Raises what `ImageStore.keep` raises."""
        expires = self.store.keep(answer_id, self.owner, images)
        return [
            {"url": f"{self.base}/v1/images/{answer_id}/{place}", "expires_at": expires}
            for place in range(len(images))
        ]


def _name(place: int, mime_type: str) -> str:
    return f"{place}.{mime_type.partition('/')[2]}"


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
