"""Graph in, graph with entity vectors out: a new version beside the old one."""

from pathlib import Path
from typing import TYPE_CHECKING

from knowledge.builder import add_vectors
from knowledge.graph import KnowledgeGraph

if TYPE_CHECKING:
    from knowledge.transe import Progress, TransEConfig


def train_version(
    path: str | Path,
    config: "TransEConfig | None" = None,
    *,
    activate: bool = True,
    progress: "Progress | None" = None,
) -> Path:
    """Train TransE on the facts of a store or version; return the NEW version's directory.

    The version that was trained on stays as it is, since processes may have it mapped.
    """
    from knowledge.transe import fit  # torch only where it is used

    graph = KnowledgeGraph.open(path)
    found = fit(graph.triples(), len(graph), len(graph.relations), config, progress=progress)
    return add_vectors(graph.path, found.entities, found.relations, activate=activate)
