"""What a Prefect server keeps in its database, once it has written what it was told."""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

_QUIET_SECONDS = 8  # longer than the server's own pause between two writes of events
_PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Size:
    """How much a database holds, in bytes."""

    whole: int
    """The file, with what its log still holds."""

    artifacts: int
    """How much of it is what artifacts show, which stands in there twice: as their history, and as their latest."""

    @property
    def without_artifacts(self) -> int:
        return self.whole - self.artifacts


def settled(path: Path) -> Size:
    """The size of an SQLite database once it has not changed for some seconds.

    Raises:
        TimeoutError: It never rests.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    seen, since = _rows(path), time.monotonic()
    while time.monotonic() < since + _QUIET_SECONDS:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} still changes after {_PATIENCE_SECONDS} s")
        time.sleep(0.5)
        now = _rows(path)
        if now != seen:
            seen, since = now, time.monotonic()
    return _size(path)


def _rows(path: Path) -> tuple[int, ...]:
    with closing(sqlite3.connect(path, timeout=60)) as database:
        tables = ("events", "log", "task_run", "artifact")
        return tuple(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)


def _size(path: Path) -> Size:
    with closing(sqlite3.connect(path, timeout=60)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        artifacts = sum(
            database.execute(f"SELECT coalesce(sum(length(data)), 0) FROM {table}").fetchone()[0]
            for table in ("artifact", "artifact_collection")
        )
    log = path.with_name(f"{path.name}-wal")
    return Size(path.stat().st_size + (log.stat().st_size if log.exists() else 0), artifacts)
