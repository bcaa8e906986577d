"""What was there before in a long list: ids, keys, requests, on disk so that memory stays flat."""

import hashlib
import sqlite3
from pathlib import Path
from types import TracebackType


class Seen:
    """Remembers texts of several kinds by their hash, with the line on which each was first.

    Args:
        path: A file that is made, for SQLite; whoever made its folder removes it.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        # Nothing here outlives the process; 8 MB of pages in memory.
        for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-8192"):
            self._database.execute(f"PRAGMA {setting}")
        self._database.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def __enter__(self) -> "Seen":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()

    def first(self, kind: str, text: str, line: int) -> int | None:
        """The line on which a text was before; None if this is the first, which is then remembered."""
        added = self._database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (_hash(kind, text), line))
        return None if added.rowcount else self.find(kind, text)

    def find(self, kind: str, text: str) -> int | None:
        """The line on which a text was before, or None; nothing is remembered."""
        row = self._database.execute("SELECT number FROM seen WHERE hash = ?", (_hash(kind, text),)).fetchone()
        return row[0] if row else None

    def count(self, kind: str, text: str) -> int:
        """How often a text of a kind was counted, this time included; not for kinds that `first` is asked about."""
        counted = "INSERT INTO seen VALUES (?, 1) ON CONFLICT (hash) DO UPDATE SET number = number + 1"
        self._database.execute(counted, (_hash(kind, text),))
        return self.find(kind, text) or 0


def _hash(kind: str, text: str) -> bytes:
    return hashlib.blake2b(f"{kind}\0{text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
