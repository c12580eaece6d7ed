"""The journal of jobs: one SQLite file in WAL mode, flushed to the disk before a job is accepted.

Every method is a short transaction under one lock; call them in a thread, never on the event loop.
"""

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rapid_diffusion.errors import InvalidRequestError

STATUSES = ("queued", "running", "succeeded", "failed", "canceled", "expired")
OVER = frozenset(STATUSES[2:])
OVER_IN_SQL = ", ".join(f"'{status}'" for status in sorted(OVER))
_FORGOTTEN = "forgotten"  # past its retention: the row stays, so that it can be answered with 410
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, idempotency_key TEXT, request_sha256 TEXT NOT NULL,
  request TEXT NOT NULL, seed INTEGER NOT NULL, priority INTEGER NOT NULL, status TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, last_event INTEGER NOT NULL DEFAULT 1,
  created REAL NOT NULL, started REAL, finished REAL,
  error TEXT, result TEXT, bytes INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS by_key ON jobs (owner, idempotency_key)
  WHERE idempotency_key IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_status ON jobs (status, finished);
CREATE INDEX IF NOT EXISTS by_bytes ON jobs (bytes, finished) WHERE bytes > 0;
"""
_COLUMNS = (
    "sequence, id, owner, idempotency_key, request_sha256, request, seed, priority, status,"
    " attempts, last_event, created, started, finished, error, result, bytes"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewJob:
    """What is known of a job when it is accepted; `reserved` are bytes its result may need."""

    id: str
    owner: str
    idempotency_key: str | None
    request_sha256: str
    request: dict[str, Any]
    seed: int
    priority: int
    reserved: int


@dataclass(frozen=True)
class JobRecord:
    """One row. Times are seconds since 1970; `request`, `error` and `result` are JSON objects."""

    sequence: int
    id: str
    owner: str
    idempotency_key: str | None
    request_sha256: str
    request: dict[str, Any]
    seed: int
    priority: int
    status: str
    attempts: int
    last_event: int
    created: float
    started: float | None
    finished: float | None
    error: dict[str, Any] | None
    result: dict[str, Any] | None
    bytes: int

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen to it any more."""
        return self.status in OVER

    @property
    def is_forgotten(self) -> bool:
        """Whether its retention has passed."""
        return self.status == _FORGOTTEN


class Journal:
    """The journal at `path`; a damaged file is set aside by name and a new one is begun.

    `set_aside` is the new name of what was damaged, or None. Raises `InvalidRequestError` for a
    journal of a later version, and where the disk refuses it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside: Path | None = None
        self._lock = threading.Lock()
        try:
            self._database = _open(path)
        except sqlite3.OperationalError as error:  # locked, unreadable, no room: not the file
            raise InvalidRequestError(
                "state", f"{path}: {error}; give a folder on a disk that can be written"
            ) from error
        except sqlite3.DatabaseError as error:
            self.set_aside = _set_aside(path)
            logger.error("%s is damaged (%s); set aside as %s", path, error, self.set_aside)
            self._database = _open(path)

    def close(self) -> None:
        """Write everything into the main file and close it."""
        with self._lock:
            self._database.close()

    def accept(self, job: NewJob) -> JobRecord:
        """Write a job down; when this returns, it survives a kill and a power cut.

        With an idempotency key that its owner has used already, the earlier job is returned.
        """
        content = json.dumps(job.request, ensure_ascii=False)
        with self._transaction() as database:
            if (earlier := self._by_key(job.owner, job.idempotency_key)) is not None:
                return earlier
            database.execute(
                "INSERT INTO jobs (id, owner, idempotency_key, request_sha256, request, seed,"
                " priority, status, created, bytes) VALUES (?,?,?,?,?,?,?,'queued',?,?)",
                (
                    job.id,
                    job.owner,
                    job.idempotency_key,
                    job.request_sha256,
                    content,
                    job.seed,
                    job.priority,
                    time.time(),
                    job.reserved,
                ),
            )
            return self._select("id = ?", job.id)[0]

    def start(self, job_id: str, event: int) -> JobRecord:
        """Note that a job is being drawn, once more perhaps, and the number of its event."""
        with self._transaction() as database:
            database.execute(
                "UPDATE jobs SET status = 'running', attempts = attempts + 1, started = ?,"
                " last_event = ? WHERE id = ?",
                (time.time(), event, job_id),
            )
            return self._select("id = ?", job_id)[0]

    def finish(
        self, job_id: str, status: str, event: int, outcome: dict[str, Any] | None, size: int
    ) -> JobRecord:
        """Note how a job ended: `outcome` is its result where it succeeded, else its error."""
        column = "result" if status == "succeeded" else "error"
        content = None if outcome is None else json.dumps(outcome, ensure_ascii=False)
        with self._transaction() as database:
            database.execute(  # `column` is one of two words: no SQL comes from outside
                f"UPDATE jobs SET {column} = ?,"  # nosec B608
                " status = ?, finished = ?, last_event = ?, bytes = ? WHERE id = ?",
                (content, status, time.time(), event, size, job_id),
            )
            return self._select("id = ?", job_id)[0]

    def get(self, job_id: str) -> JobRecord | None:
        """One job, forgotten ones included."""
        with self._transaction():
            return next(iter(self._select("id = ?", job_id)), None)

    def recent(self, owner: str, before: int | None, limit: int) -> list[JobRecord]:
        """The latest jobs of an owner, newest first, with a sequence below `before`."""
        with self._transaction():
            return self._select(
                "owner = ? AND sequence < ? AND status != ? ORDER BY sequence DESC LIMIT ?",
                owner,
                2**62 if before is None else before,
                _FORGOTTEN,
                limit,
            )

    def take_up(self) -> list[JobRecord]:
        """After a start: every job that is not over, oldest first, as queued again."""
        with self._transaction() as database:
            database.execute("UPDATE jobs SET status = 'queued' WHERE status = 'running'")
            return self._select("status = 'queued' ORDER BY sequence")

    def bytes_held(self) -> int:
        """Bytes of all results, and of those that accepted jobs may still write."""
        with self._transaction() as database:
            query = "SELECT coalesce(sum(bytes), 0) FROM jobs WHERE bytes > 0"  # as the index says
            return int(database.execute(query).fetchone()[0])

    def oldest_result(self) -> float | None:
        """When the oldest result that is still held was finished."""
        with self._transaction() as database:
            query = "SELECT min(finished) FROM jobs WHERE bytes > 0 AND finished IS NOT NULL"
            found: float | None = database.execute(query).fetchone()[0]
            return found

    def forget(self, before: float) -> list[str]:
        """Empty the rows of jobs that ended before a time; returns their ids. Prompts go too."""
        with self._transaction() as database:
            rows = database.execute(  # words of this file; their results are not read again
                "UPDATE jobs SET status = ?, request = '{}', error = NULL, result = NULL,"  # nosec B608
                " idempotency_key = NULL, bytes = 0"
                f" WHERE status IN ({OVER_IN_SQL}) AND finished < ? RETURNING id",
                (_FORGOTTEN, before),
            )
            return [job_id for (job_id,) in rows]

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """One transaction, for tables that belong to others."""
        return self._transaction()

    def _by_key(self, owner: str, key: str | None) -> JobRecord | None:
        if key is None:
            return None
        return next(iter(self._select("owner = ? AND idempotency_key = ?", owner, key)), None)

    def _select(self, condition: str, *values: Any) -> list[JobRecord]:
        # Conditions are literals of this file; what comes from outside is bound by `?`.
        query = f"SELECT {_COLUMNS} FROM jobs WHERE {condition}"  # nosec B608
        return [_record(row) for row in self._database.execute(query, values)]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            yield self._database


def _open(path: Path) -> sqlite3.Connection:
    # isolation_level None: transactions begin and end where this file says so.
    database = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")  # the WAL is flushed at every commit
        _check(database, path)
        database.executescript(_SCHEMA)
        database.execute(f"PRAGMA user_version = {_VERSION}")
    except BaseException:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection, path: Path) -> None:
    state = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if state != "ok":
        raise sqlite3.DatabaseError(state)
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > _VERSION:
        raise InvalidRequestError(
            "state",
            f"{path} is of version {version}; this program reads up to {_VERSION}."
            " Use the program that wrote it, or another folder",
        )


def _set_aside(path: Path) -> Path:
    """Rename the file and its companions; returns the new name of the file."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for suffix in ("", "-wal", "-shm"):
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(aside.with_name(aside.name + suffix))
    return aside


def _record(row: tuple[Any, ...]) -> JobRecord:
    values = list(row)
    for place in (5, 14, 15):  # request, error, result
        values[place] = None if row[place] is None else json.loads(row[place])
    return JobRecord(*values)
