"""What was seen before, kept on disk: the memory stays the same for ten rows and ten million."""

import sqlite3
from types import TracebackType


class Seen:
    """Keys with the place of their first sighting, in a temporary file that closing removes."""

    def __init__(self) -> None:
        # The empty name is SQLite's own temporary database: on disk beyond a small cache.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE seen (key BLOB PRIMARY KEY, place BLOB) WITHOUT ROWID")

    def __enter__(self) -> "Seen":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._database.close()

    def first(self, key: str | bytes, place: str) -> str | None:
        """Where `key` was seen before; None if it is new, and then `place` is noted."""
        row = (_bytes(key), _bytes(place))
        if self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", row).rowcount:
            return None
        found = self._database.execute("SELECT place FROM seen WHERE key = ?", row[:1]).fetchone()
        return str(found[0].decode("utf-8", "replace"))

    def __contains__(self, key: str | bytes) -> bool:
        found = self._database.execute("SELECT 1 FROM seen WHERE key = ?", (_bytes(key),))
        return found.fetchone() is not None


def _bytes(text: str | bytes) -> bytes:
    # File names may hold what is not Unicode.
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
