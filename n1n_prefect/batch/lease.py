"""Who carries out a batch, or a chunk of it: a document in its folder, renewed for as long as its holder lives.

Two who carry out the same would pay twice, since neither sees what the other has under way. Here it is seen: a run
that somebody starts a second time, a chunk that is handed out again because its worker seemed lost. A holder that
was killed is followed at once where that can be known, and else when its document is stale by the store's clock.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, replace
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path

from prefect.context import FlowRunContext
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from n1n_prefect import stopping
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.errors import InvalidRequestError, N1nError, UploadError
from n1n_prefect.run_log import get_logger

BATCH = "_batch/lease.json"
"""Whose batch it is at the moment."""

RENEWED_SECONDS = 10.0
STALE_SECONDS = 40.0
_HEARD_SECONDS = 5.0  # between two looks at whether the batch is told to end
_TICK_SECONDS = 1.0
_SETTLED_SECONDS = 0.5  # of two who take over in the same moment the later one has it


def of_chunk(number: int) -> str:
    """The name of a chunk's lease in the batch's folder."""
    return f"_batch/leases/{number:05}.json"


@dataclass(frozen=True)
class Holder:
    """Who has a lease."""

    token: str
    """Tells this holder from every other."""

    worker: str
    """Host and process, for people."""

    run: str = ""
    """The flow run, for people."""

    place: str = ""
    """Within it a process id means one process; empty where that is not known."""

    process: int = 0
    """The process's id."""

    renewed: str = ""
    """When it was renewed last, by the holder's clock."""

    ends: bool = False
    """Whether it was told to end, and those who work for it should."""

    has_failed: bool = False
    """Whether it ended by an error, and left this to say so."""

    def __str__(self) -> str:
        return f"flow run {self.run!r} on {self.worker}" if self.run else self.worker

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended without giving the lease back."""
        if self.has_failed:
            return True
        if not self.place or self.place != _place():
            return False
        if self.process == os.getpid():
            return self.token not in _held
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False


_HOLDER: TypeAdapter[Holder] = TypeAdapter(Holder)
_held: set[str] = set()
"""The tokens of this process."""


def here() -> str:
    """This host and process, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"


@lru_cache(maxsize=1)
def _place() -> str:
    """This machine since it was started, and the processes that can be seen from here; empty where not on Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def holder_of(store: BatchStore, name: str) -> Holder | None:
    """Who has a lease; None if nobody has, or that cannot be understood.

    Raises:
        UploadError: It cannot be read.
    """
    data = store.read(name)
    try:
        return None if data is None else _HOLDER.validate_json(data)
    except ValidationError:
        return None


def _ourselves() -> Holder:
    context = FlowRunContext.get()
    run = context.flow_run.name if context and context.flow_run else ""
    return Holder(uuid.uuid4().hex, here(), run or "", _place(), os.getpid())


@plain_dataclass
class Lease:
    """One document that one holder has at a time; see `held`.

    Args:
        store: The batch's folder.
        name: The document's name in it.
        tells_end: Whether those who listen are told when this process is to end.
        listens_to: The name of a lease whose holder tells when to end.
        leaves_trace: Whether the next holder is to know of an error that ended this one.
    """

    store: BatchStore
    name: str
    tells_end: bool = False
    listens_to: str = ""
    leaves_trace: bool = False
    follows_lost: bool = False
    """Whether an earlier holder was killed or failed, so that nobody knows all that it did."""

    is_lost: bool = False
    """Whether another holder took it over, which goes on in our place."""

    is_told: bool = False
    """Whether the holder listened to was told to end."""

    _us: Holder = field(default_factory=_ourselves)
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def reason(self) -> str:
        """Why nothing should be begun under it any more; empty if it may be."""
        if self.is_lost:
            return "Another process has taken this over."
        return "The run of the batch was told to end." if self.is_told else ""

    def take(self) -> Holder | None:
        """Tries to get it; who has it, if that did not succeed."""
        found = holder_of(self.store, self.name)
        age = self.store.age(self.name)
        if age is None:
            if self._create():
                return self._begun()
            return self.take()
        if found is not None and not found.is_gone and age < STALE_SECONDS:
            return found
        self._write()
        time.sleep(_SETTLED_SECONDS)
        self.follows_lost = True
        found = holder_of(self.store, self.name)
        return self._begun() if found is not None and found.token == self._us.token else found

    def give_back(self, *, has_failed: bool = False) -> None:
        """Lets another have it; it becomes stale where that fails."""
        self._over.set()
        _held.discard(self._us.token)
        with suppress(UploadError):
            found = holder_of(self.store, self.name)
            if found is None or found.token != self._us.token:
                return
            if has_failed and self.leaves_trace:
                self._leave(found)
                return
            try:
                self.store.delete(self.name)
            except UploadError:  # not everybody who may write may delete
                self._leave(found)

    def _leave(self, holder: Holder) -> None:
        self.store.write(self.name, _HOLDER.dump_json(replace(holder, has_failed=True)))

    def _begun(self) -> None:
        _held.add(self._us.token)
        self._hear()
        threading.Thread(target=self._keep, name="n1n-lease", daemon=True).start()

    def _keep(self) -> None:
        renewed = heard = time.monotonic()
        told = False
        while not self._over.wait(_TICK_SECONDS):
            now, news = time.monotonic(), self.tells_end and stopping.is_asked() and not told
            with suppress(UploadError):
                if news or now >= renewed + RENEWED_SECONDS:
                    self._renew()
                    renewed, told = now, told or news
                if now >= heard + _HEARD_SECONDS:
                    heard = now
                    self._hear()

    def _hear(self) -> None:
        if self.listens_to:
            followed = holder_of(self.store, self.listens_to)
            self.is_told = followed is not None and followed.ends

    def _renew(self) -> None:
        found = holder_of(self.store, self.name)
        if found is not None and found.token != self._us.token:
            self.is_lost = True
            self._over.set()
        elif not self._over.is_set():
            self._write()

    def _create(self) -> bool:
        return self.store.create(self.name, self._dumped())

    def _write(self) -> None:
        self.store.write(self.name, self._dumped())

    def _dumped(self) -> bytes:
        renewed = datetime.now(timezone.utc).isoformat()
        return _HOLDER.dump_json(replace(self._us, renewed=renewed, ends=self.tells_end and stopping.is_asked()))


@contextmanager
def held(lease: Lease, what: str, *, waits: bool) -> Generator[Lease]:
    """Holds a lease.

    Args:
        lease: Which.
        what: What it is about, for people, such as `batch 'week-46'`.
        waits: Whether to wait for a holder that lives; else it is an error.

    Raises:
        InvalidRequestError: Another holder lives; nothing was spent.
        N1nError: The process was told to end while it waited.
        UploadError: The store refused or could not be reached.
    """
    first = holder = lease.take()
    if first is not None:
        get_logger().warning("%s is being carried out by %s; waiting for it to end.", what.capitalize(), first)
    while holder is not None:
        if not waits and holder != first:
            raise InvalidRequestError(
                f"{what.capitalize()} is being carried out by {holder}. Wait until it has ended, or cancel it; this "
                "run has changed and spent nothing."
            )
        if stopping.wait(_TICK_SECONDS):
            raise N1nError(f"The process was told to end while {what} was being carried out by {holder}.")
        holder = lease.take()
    try:
        yield lease
    except BaseException:
        lease.give_back(has_failed=True)
        raise
    lease.give_back()
