"""The dictionary of surfaces and their candidates, mapped from a version's files."""

from pathlib import Path
from typing import Any

import marisa_trie  # type: ignore[import-not-found]

from knowledge.errors import DamagedVersionError
from knowledge.storage import Array, map_array


class Surfaces:
    """Surface -> number -> candidates (entity, prior), the highest prior first."""

    def __init__(self, directory: Path, longest: int) -> None:
        self.longest = longest
        self._trie = _map_trie(directory / "names.marisa")
        self.pointers: Array = map_array(directory / "surf_ptr.npy")
        self.entities: Array = map_array(directory / "cand_id.npy")
        self.priors: Array = map_array(directory / "cand_prior.npy")

    def __len__(self) -> int:
        return len(self._trie)

    def prefixes(self, text: str) -> list[str]:
        """The surfaces that `text` starts with."""
        found: list[str] = self._trie.prefixes(text)
        return found

    def index(self, surface: str) -> int:
        """The number of a surface that `prefixes` gave."""
        number: int = self._trie[surface]
        return number

    def best_prior(self, index: int) -> float:
        """The prior of the likeliest candidate."""
        return float(self.priors[self.pointers[index]])

    def rows(self, index: int) -> list[tuple[int, float]]:
        """The candidates of a surface, (entity, prior)."""
        first, end = int(self.pointers[index]), int(self.pointers[index + 1])
        entities: list[int] = self.entities[first:end].tolist()
        priors: list[float] = self.priors[first:end].tolist()
        return list(zip(entities, priors, strict=True))


def _map_trie(path: Path) -> Any:
    try:
        return marisa_trie.Trie().mmap(str(path))
    except RuntimeError as error:
        raise DamagedVersionError(path, f"is not a dictionary ({error})") from error
