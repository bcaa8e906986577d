"""Replies that have arrived and are not yet staged: whole on the local disk before anything is made of them."""

import errno
import os
import shutil
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import orjson

from n1n_prefect.client import ReplyHead
from n1n_prefect.errors import JournalUnreadableError

_LENGTH = 8  # bytes that say how long the trailer before them is
_LEAST_FREE = 64 << 20  # bytes; the largest reply is 30 MB, and others arrive beside it
_BUFFER = 1 << 20  # bytes; replies arrive in pieces of some kilobytes, each a write and a switch of threads otherwise


@dataclass(frozen=True)
class SpooledReply:
    """A whole reply."""

    status: int
    """HTTP status."""

    headers: Mapping[str, str]
    """Names in lower case."""

    body: bytes = field(repr=False)
    """The body as it arrived, decompressed."""


class Spool:
    """A folder of replies, each under the name of its paid attempt.

    A reply is written under a temporary name as it arrives and renamed once it is whole, so
    that whatever is found under its name is whole. Status and headers stand behind the body.

    Args:
        folder: Made when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def arriving(self, name: str) -> "Generator[Arrival]":
        """A sink for a reply; it counts only if `whole` is called before the end."""
        part = self._path(name).with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        self.folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.folder).free < _LEAST_FREE:
            raise OSError(errno.ENOSPC, f"less than {_LEAST_FREE >> 20} MiB are free", str(self.folder))
        arrival: Arrival | None = None
        try:
            with part.open("wb", buffering=_BUFFER) as file:
                arrival = Arrival(file)
                yield arrival
        finally:
            # Whole is whole, whatever interrupts us now.
            if arrival is not None and arrival.is_whole:
                part.replace(self._path(name))
            part.unlink(missing_ok=True)

    def find(self, name: str) -> SpooledReply | None:
        """The whole reply of that name, or None; a file that a power cut left torn is none.

        Raises:
            JournalUnreadableError: There may be one, and it cannot be read; nothing is spent until it can.
        """
        try:
            with self._path(name).open("rb") as file:
                return _read(file)
        except (FileNotFoundError, ValueError):
            return None
        except OSError as exc:
            if exc.errno == errno.EINVAL:  # too short for a trailer
                return None
            raise JournalUnreadableError(
                f"The reply {self._path(name)} cannot be read ({exc}); it may be paid for, so nothing was spent now. "
                "Make it readable for this user."
            ) from exc

    def forget(self, name: str) -> None:
        """Removes a reply that is staged."""
        with suppress(OSError):  # what cannot be removed is found again and costs nothing but disk
            self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.reply"


def _read(file: BinaryIO) -> SpooledReply:
    end = file.seek(-_LENGTH, os.SEEK_END)
    start = file.seek(end - int.from_bytes(file.read(), "big"))
    status, headers = orjson.loads(file.read(end - start))
    file.seek(0)
    return SpooledReply(status, headers, file.read(start))


class Arrival:
    """Where one reply's body goes; a `Sink`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.is_whole = False
        self.size_bytes = 0

    def write(self, data: bytes) -> None:
        """Takes the next bytes of the body."""
        self._file.write(data)
        self.size_bytes += len(data)

    def whole(self, head: ReplyHead) -> None:
        """Ends the body; status and headers follow it."""
        trailer = orjson.dumps([head.status, dict(head.headers)])
        self._file.write(trailer)
        self._file.write(len(trailer).to_bytes(_LENGTH, "big"))
        self._file.flush()
        self.is_whole = True
