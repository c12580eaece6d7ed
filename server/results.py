"""Finished pictures on disk: a folder a job, there whole or not at all, and one owner a state."""

import fcntl
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from rapid_diffusion.errors import InvalidRequestError

_UNFINISHED = ".writing-"


class ResultStore:
    """Folders named after jobs under `folder`, each with files `0.png`, `1.png` …"""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, job_id: str, files: dict[str, bytes]) -> int:
        """Write the files of a job, flushed to the disk; returns their bytes. Raises `OSError`.

        What an interrupted run of the same job left is replaced.
        """
        temporary, final = self._folder / f"{_UNFINISHED}{job_id}", self._folder / job_id
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            for name, content in files.items():
                write_flushed(temporary / name, content)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            _flush_folder(self._folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return sum(map(len, files.values()))

    def find(self, job_id: str, name: str) -> Path | None:
        """The path of a file, or None; both names come from the journal, never from a client."""
        path = self._folder / job_id / name
        return path if path.is_file() else None

    def remove(self, job_ids: Iterable[str]) -> None:
        """Remove the folders of these jobs; those that are gone already are no error."""
        for job_id in job_ids:
            shutil.rmtree(self._folder / job_id, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what interrupted writes left."""
        for path in self._folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)


def lock_state(folder: Path) -> IO[bytes]:
    """Make the state folder ours until the returned file is closed or this process ends.

    Raises `InvalidRequestError` where the folder cannot be made or another server has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (folder / "lock").open("ab")
    except OSError as error:
        raise InvalidRequestError(
            "state", f"{folder}: {error.strerror}; give a folder that can be written"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise InvalidRequestError(
            "state", f"{folder} is in use by another server; give each server its own folder"
        ) from error
    return file


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file; it is on the disk when this returns. Raises `OSError`."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
