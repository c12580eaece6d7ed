"""Who had pictures without the explicit label: a line of JSON each, kept for six months."""

import json
import threading
import time
from pathlib import Path

from server.errors import Problem
from server.results import write_flushed

KEPT_SECONDS = 184 * 86_400  # six months, whichever they are


class LabelLog:
    """The file at `path`. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def note(self, owner: str, request_id: str) -> None:
        """Add a request; raises `Problem` storage_unavailable where it cannot be written down."""
        line = json.dumps({"time": time.time(), "key": owner, "request": request_id})
        try:
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            reason = error.strerror or "disk"
            raise Problem(
                "storage_unavailable", values={"reason": reason}, retry_after=30.0
            ) from error

    def sweep(self) -> None:
        """Drop the lines that are too old; the file is replaced as a whole. Raises `OSError`."""
        with self._lock:
            if not self._path.exists():
                return
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            due = time.time() - KEPT_SECONDS
            kept = [line for line in lines if _time_of(line) >= due]
            if len(kept) < len(lines):
                shorter = self._path.with_suffix(".writing")
                write_flushed(shorter, "".join(kept).encode())
                shorter.replace(self._path)


def _time_of(line: str) -> float:
    """When a line was written; one that a crash cut short is as good as new, and stays."""
    try:
        return float(json.loads(line)["time"])
    except (ValueError, LookupError, TypeError):
        return time.time()
