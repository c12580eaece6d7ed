"""Where the pictures of `generate` go, checked before anything is drawn."""

import os
from dataclasses import dataclass
from pathlib import Path

from rapid_diffusion.errors import InvalidRequestError, OutputError


@dataclass(frozen=True)
class Output:
    """One file, or a folder that gets one numbered file a picture."""

    path: Path
    is_folder: bool

    def file(self, index: int, seed: int) -> Path:
        """The file of picture `index` (from 0): in a folder `0000-<seed>.png`."""
        return self.path / f"{index:04d}-{seed}.png" if self.is_folder else self.path


def prepare_output(path: Path, pictures: int) -> Output:
    """Make the folder, or check that the file can be there, for that many pictures.

    A path with a suffix names a file, unless it is a folder already.

    Raises:
        InvalidRequestError: field `output`: a file for several pictures, or an unknown suffix.
        OutputError: the folder cannot be made or written to.
    """
    from rapid_diffusion.images.saving import check_suffix

    if path.is_dir() or not path.suffix:
        _make_writable(path)
        return Output(path, is_folder=True)
    check_suffix(path)
    if pictures > 1:
        raise InvalidRequestError(
            "output", f"{str(path)!r} is one file for {pictures} pictures; give a folder"
        )
    _check_writable(path.parent)
    return Output(path, is_folder=False)


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made ({error.strerror}). Give another folder with -o"
        ) from error
    _check_writable(folder)


def _check_writable(folder: Path) -> None:
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder. Make it, or give another one with -o")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: you may not write there. Give another folder with -o")
