"""What a Prefect server keeps in its database, once it has written what it was told: in SQLite or in PostgreSQL."""

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_QUIET_SECONDS = 8  # longer than the server's own pause between two writes of events
_PATIENCE_SECONDS = 180
_COUNTED = ("events", "log", "task_run", "artifact")
_SHOWN = ("artifact", "artifact_collection")  # the history of artifacts, and the latest of each


class Database(Protocol):
    """A server's database."""

    @property
    def url(self) -> str:
        """What the server is told; empty for its own SQLite."""
        ...

    def ask(self, query: str) -> int:
        """The one number that a query gives."""
        ...

    def held_bytes(self) -> int:
        """How much it holds on disk."""
        ...


@dataclass(frozen=True)
class Size:
    """How much a database holds, in bytes."""

    whole: int
    """All of it."""

    artifacts: int
    """How much of it is what artifacts show."""

    @property
    def without_artifacts(self) -> int:
        return self.whole - self.artifacts


def settled(database: Database) -> Size:
    """The size of a database once it has not changed for some seconds.

    Raises:
        TimeoutError: It never rests.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    seen, since = _rows(database), time.monotonic()
    while time.monotonic() < since + _QUIET_SECONDS:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the server's database still changes after {_PATIENCE_SECONDS} s")
        time.sleep(0.5)
        now = _rows(database)
        if now != seen:
            seen, since = now, time.monotonic()
    lengths = (database.ask(f"SELECT coalesce(sum(length(CAST(data AS text))), 0) FROM {table}") for table in _SHOWN)
    return Size(database.held_bytes(), sum(lengths))


def _rows(database: Database) -> list[int]:
    return [database.ask(f"SELECT count(*) FROM {table}") for table in _COUNTED]


@dataclass(frozen=True)
class SQLite:
    """The file in a server's home."""

    path: Path
    url: str = ""

    def ask(self, query: str) -> int:
        with closing(sqlite3.connect(self.path, timeout=60)) as database:
            return database.execute(query).fetchone()[0]

    def held_bytes(self) -> int:
        """The file, with what its log still holds."""
        self.ask("PRAGMA wal_checkpoint(TRUNCATE)")
        log = self.path.with_name(f"{self.path.name}-wal")
        return self.path.stat().st_size + (log.stat().st_size if log.exists() else 0)


# ── PostgreSQL ───────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class PostgreSQL:
    """A cluster on the loopback interface."""

    programs: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/postgres"

    def ask(self, query: str) -> int:
        address = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", "postgres")
        answer = subprocess.run(
            [self.programs / "psql", *address, "-XAtc", query], capture_output=True, check=True, text=True
        )
        return int(answer.stdout)

    def held_bytes(self) -> int:
        return self.ask("SELECT pg_database_size(current_database())")


def postgresql_programs() -> Path | None:
    """Where Debian's PostgreSQL, or one on the path, has its programs; None if there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def postgresql(programs: Path, folder: Path, port: int) -> Iterator[PostgreSQL]:
    """A new cluster in a folder, which trusts this host."""
    folder.mkdir()
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    _run([programs / "initdb", "-D", folder, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"])
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    _run([programs / "pg_ctl", "-D", folder, "-w", "-l", folder / "log", "-o", options, "start"])
    try:
        yield PostgreSQL(programs, port)
    finally:
        _run([programs / "pg_ctl", "-D", folder, "-m", "fast", "stop"])


def _run(command: list[str | Path]) -> None:
    # It refuses to run as root.
    as_owner = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    subprocess.run([*as_owner, *command], check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd="/")
