"""A store that is served: the version in use, exchanged without stopping who reads it."""

import threading
from pathlib import Path

from knowledge.graph import KnowledgeGraph
from knowledge.versions import Verify

_PAGE = 4096


class GraphStore:
    """Holds the graph in use. A request takes `graph` once and keeps it: link, neighbours and
    vectors then agree, whatever is swapped meanwhile. The old version's files stay mapped until
    the exchange after its own, and until its last reader lets go of it.
    """

    def __init__(self, path: str | Path, *, verify: Verify = "quick") -> None:
        """Open the version that `CURRENT` in `path` names. Raises a VersionError."""
        self._path = Path(path)
        self._reloading = threading.Lock()
        self._graph = self._former = KnowledgeGraph.open(self._path, verify=verify)

    @property
    def graph(self) -> KnowledgeGraph:
        """The version in use."""
        return self._graph

    def reload(self, *, verify: Verify = "full", warm: bool = True) -> str:
        """Open what `CURRENT` names now, swap it in, and return its name.

        Checks (all bytes by default) and warms the new version before the swap, which is one
        assignment. Raises a VersionError, naming the file, and keeps serving the old version.
        """
        with self._reloading:
            found = KnowledgeGraph.open(self._path, verify=verify)
            if found.version != self._graph.version:
                if warm:
                    warm_up(found.path)
                # Who lets go of a graph last has to unmap its files: not a request, but the next
                # exchange.
                self._graph, self._former = found, self._graph
            return self._graph.version


def warm_up(directory: Path) -> int:
    """Read every file of a version into the page cache; the bytes read."""
    total = 0
    for path in sorted(directory.iterdir()):
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(256 * _PAGE):
                total += len(chunk)
    return total
