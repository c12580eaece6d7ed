"""Where the pictures of `generate` go, checked before anything is drawn."""

from dataclasses import dataclass
from pathlib import Path

from rapid_diffusion.errors import InvalidRequestError
from rapid_diffusion.files import check_writable, make_writable


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
        make_writable(path, "-o")
        return Output(path, is_folder=True)
    check_suffix(path)
    if pictures > 1:
        raise InvalidRequestError(
            "output", f"{str(path)!r} is one file for {pictures} pictures; give a folder"
        )
    check_writable(path.parent, "-o")
    return Output(path, is_folder=False)
