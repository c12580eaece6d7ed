"""The dictionary of surfaces and their candidates, mapped from a version's files."""

from collections.abc import Callable, Iterable
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
        # Single items of a memory view are read several times faster than those of an array.
        self.pointers = map_array(directory / "surf_ptr.npy", 1).data
        self.entities = map_array(directory / "cand_id.npy").data
        self.priors: Array = map_array(directory / "cand_prior.npy")
        # (surface, number) of the surfaces that a text starts with. Bound, not wrapped: it is
        # asked at every character of a sentence.
        self.prefixes: Callable[[str], Iterable[tuple[str, int]]] = (
            self._trie.iter_prefixes_with_ids
        )

    def __len__(self) -> int:
        return len(self._trie)

    def best_prior(self, index: int) -> float:
        """The prior of the likeliest candidate."""
        prior: float = self.priors.item(self.pointers[index])
        return prior

    def rows(self, index: int) -> list[tuple[int, float]]:
        """The candidates of a surface, (entity, prior)."""
        first, end = self.pointers[index], self.pointers[index + 1]
        if end == first + 1:  # most have one
            return [(self.entities[first], self.priors.item(first))]
        entities: list[int] = self.entities[first:end].tolist()
        priors: list[float] = self.priors[first:end].tolist()
        return list(zip(entities, priors, strict=True))


def _map_trie(path: Path) -> Any:
    try:
        return marisa_trie.Trie().mmap(str(path))
    except RuntimeError as error:
        raise DamagedVersionError(path, f"is not a dictionary ({error})") from error
