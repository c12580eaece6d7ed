"""Where the parts of a model lie: in its own folder or, where it names a base, in that one's.

A student changes some weights of its teacher's UNet and nothing else. Its folder may hold just
these, and say in `model_index.json` which folder has the rest, as `base_model` of model cards does:

    "base_model": {"name": "emoji-zh", "parts": {"vae": "sha256:…", …}}

The base lies beside it or is an embedded model; it is known by the name on its card and by the
digests of its parts, so that no other one is taken for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapid_diffusion.checkpoints.folder import folder_digest, read_json
from rapid_diffusion.errors import CheckpointError

INDEX = "model_index.json"
BASE = "base_model"
EMBEDDED = Path(__file__).parent / "models"


def find_model(name_or_path: str | Path) -> Path:
    """The folder of an embedded model's name or of a path.

    Raises `CheckpointError` naming the models there are.
    """
    folders = [Path(name_or_path), EMBEDDED / name_or_path]
    for folder in folders:
        if (folder / INDEX).is_file():
            return folder
    if folders[0].is_dir():
        raise CheckpointError(name_or_path, f"has no {INDEX}; this is not a model folder")
    embedded = sorted(path.name for path in EMBEDDED.glob("*") if path.is_dir())
    raise CheckpointError(
        name_or_path, f"no such model folder; give a path, or one of the embedded: {embedded}"
    )


@dataclass(frozen=True)
class Components:
    """The folder of a model and that of its base, if it has one."""

    folder: Path
    base: Path | None = None

    def __getitem__(self, name: str) -> Path:
        """Where the component of that name lies, or should."""
        own = self.folder / name
        return own if self.base is None or own.is_dir() else self.base / name

    def names(self) -> list[str]:
        """All components that there are."""
        names = set(_parts_in(self.folder))
        return sorted(names if self.base is None else names | set(_parts_in(self.base)))

    @property
    def unet_below(self) -> Path | None:
        """The UNet whose weights stand where the model's own has none."""
        return None if self.base is None else self.base / "unet"


def components_of(folder: Path) -> Components:
    """The components of the model in `folder`, those of its base included.

    Raises `CheckpointError` where the base is missing or is not the one that was meant.
    """
    said = read_json(folder / INDEX).get(BASE)
    return Components(folder, None if said is None else _find_base(folder, said))


def base_entry(base: Path, name: str) -> dict[str, Any]:
    """What a model says of the base in the folder `base`, for its `model_index.json`.

    The graph may be exchanged, as everywhere: it is not among the parts.
    """
    parts = [part for part in _parts_in(base) if part != "knowledge"]
    return {"name": name, "parts": {part: folder_digest(base / part) for part in parts}}


def finds_base(folder: Path, base: Path) -> bool:
    """Whether a model in `folder` will find its base where that lies now."""
    return base.resolve().parent in (folder.resolve().parent, EMBEDDED.resolve())


def _parts_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def _find_base(folder: Path, said: Any) -> Path:
    """The first model of that name, beside `folder` or embedded, whose parts have the digests."""
    if not isinstance(said, dict) or not isinstance(said.get("parts"), dict) or "name" not in said:
        raise CheckpointError(
            folder / INDEX, f"{BASE} is {said!r:.80}; a name and parts are wanted"
        )
    named = list(_models_of_name(folder, said["name"]))
    for base in named:
        if all(
            (base / part).is_dir() and folder_digest(base / part) == digest
            for part, digest in said["parts"].items()
        ):
            return base
    found = f"{[str(base) for base in named]} differ from it" if named else "there is none"
    raise CheckpointError(
        folder,
        f"needs its base {said['name']!r} beside it or embedded, with the very weights that it was "
        f"made from; {found}: fetch both again",
    )


def _models_of_name(folder: Path, name: object) -> Iterator[Path]:
    for parent in (folder.absolute().parent, EMBEDDED):
        for index in sorted(parent.glob(f"*/{INDEX}")):
            told = read_json(index)
            card = told.get("card")
            if isinstance(card, dict) and card.get("name") == name and BASE not in told:
                yield index.parent
