"""What is still to be told of jobs that have ended: derived from the journal, so never lost.

A job whose request has a webhook is untold until a row here says how telling it ended.
"""

import json
from dataclasses import dataclass

from server.journal import OVER_IN_SQL, Journal

_SCHEMA = """
CREATE TABLE IF NOT EXISTS webhooks (
  job_id TEXT PRIMARY KEY, attempts INTEGER NOT NULL, due REAL NOT NULL, ended TEXT
)
"""
# LIKE keeps the requests without one from being parsed; a prompt may hold the word too.
_UNTOLD = f"""
SELECT jobs.id, coalesce(webhooks.attempts, 0), coalesce(webhooks.due, 0), jobs.request
FROM jobs LEFT JOIN webhooks ON webhooks.job_id = jobs.id
WHERE jobs.status IN ({OVER_IN_SQL})
  AND webhooks.ended IS NULL AND jobs.request LIKE '%"webhook"%'
ORDER BY jobs.finished
"""  # nosec B608


@dataclass(frozen=True)
class Untold:
    """A job whose end is to be told; `due` is seconds since 1970."""

    job_id: str
    attempts: int = 0
    due: float = 0.0


class Outbox:
    """The webhooks of one journal. Call it in a thread, as the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        with journal.transaction() as database:
            database.execute(_SCHEMA)

    def untold(self) -> list[Untold]:
        """Every job that has ended and is not told, the oldest first."""
        with self._journal.transaction() as database:
            # What was forgotten has no URL any more.
            database.execute("DELETE FROM webhooks WHERE job_id NOT IN (SELECT id FROM jobs)")
            rows = database.execute(_UNTOLD).fetchall()
        return [
            Untold(job_id, attempts, due)
            for job_id, attempts, due, request in rows
            if json.loads(request).get("webhook") is not None
        ]

    def note(self, job_id: str, attempts: int, due: float, ended: str | None) -> None:
        """After an attempt: when the next is due, or how it ended for good."""
        with self._journal.transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO webhooks VALUES (?, ?, ?, ?)",
                (job_id, attempts, due, ended),
            )
