"""What of a result storage is old and no longer needed, and how it goes without harm to what stays.

Below `n1n/` lie the journal of each request, the originals that it names, replies that wait
to be staged, and unfinished files that a killed process left. A request's journal goes as a
whole, once its newest record is old, and before the originals: whenever this is cut short,
no record is left whose original is gone. What has another name than those is left alone.

The decisions are plain functions of names and ages. `LocalFolder` and `Bucket` list, read and
delete; `prune` brings them together.
"""

import os
import re
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import orjson

from n1n_prefect.errors import JournalUnreadableError, StagingError
from n1n_prefect.journal import PREFIX, SCHEMA
from n1n_prefect.s3_errors import code_of, location_errors

Kind = Literal["journal", "original", "reply", "part"]
_AT_ONCE = 1000  # what S3 lists and deletes with one call


@dataclass(frozen=True)
class Entry:
    """A file or object, as a listing shows it."""

    name: str
    """Its path below the storage's root, with slashes."""

    size_bytes: int
    """How long it is."""

    modified: float
    """When it was last written, in seconds since 1970."""


# ── what goes ────────────────────────────────────────────────────────────────

_SHAPES: Mapping[Kind, re.Pattern[str]] = {
    "part": re.compile(rf"{PREFIX}/(journal/\w+|originals|spool)/[^/]+\.\d+-\d+\.part"),
    "journal": re.compile(rf"{PREFIX}/journal/(?P<request>\w+)/(?P<number>\d+)\.(?P<what>sent|answered)"),
    "original": re.compile(rf"{PREFIX}/originals/[0-9a-f]{{64}}\.\w+"),
    "reply": re.compile(rf"{PREFIX}/spool/(?P<request>\w+)-\d+\.reply"),
}


def kind_of(name: str) -> Kind | None:
    """What an entry is by its name; None for what is not ours to remove."""
    return next((kind for kind, shape in _SHAPES.items() if shape.fullmatch(name)), None)


@dataclass(frozen=True)
class Request:
    """A paid request by all that lies in its folder of the journal."""

    key: str
    """Its key."""

    entries: tuple[Entry, ...]
    """Its records, and whatever lies beside them."""

    def is_old(self, before: float) -> bool:
        """Whether nothing of it was written since then, and nothing in it is unknown to us."""
        return all(entry.modified < before and kind_of(entry.name) for entry in self.entries)

    def last_first(self) -> list[Entry]:
        """Its entries in the order in which they go: what is left at any moment is an earlier history of it."""
        return sorted(self.entries, key=_place_in_history, reverse=True)


def _place_in_history(entry: Entry) -> tuple[bool, int, bool]:
    found = _SHAPES["journal"].fullmatch(entry.name)
    if found is None:  # an unfinished file, which is no part of it and goes first
        return (True, 0, False)
    return (False, int(found["number"]), found["what"] == "answered")


def requests_in(entries: Iterable[Entry]) -> list[Request]:
    """The requests of a listing's journal, by their keys."""
    folders: dict[str, list[Entry]] = {}
    for entry in entries:
        parts = entry.name.split("/")
        if parts[:2] == [PREFIX, "journal"] and len(parts) > 3:
            folders.setdefault(parts[2], []).append(entry)
    return [Request(key, tuple(folders[key])) for key in sorted(folders)]


def old_entries(
    entries: Iterable[Entry], *, before: float, kept: Collection[str], named: Collection[str]
) -> list[Entry]:
    """What goes beside the journals that go.

    Args:
        entries: A whole listing.
        before: The limit, in seconds since 1970.
        kept: Keys of the requests that stay; their replies stay too.
        named: Names of the originals that they need.
    """
    return [
        entry
        for entry in entries
        if entry.modified < before
        and (
            kind_of(entry.name) == "part"
            or (kind_of(entry.name) == "original" and entry.name not in named)
            or (kind_of(entry.name) == "reply" and _request_of_reply(entry.name) not in kept)
        )
    ]


def _request_of_reply(name: str) -> str:
    return PurePosixPath(name).stem.rpartition("-")[0]


def named_original(record: bytes | None) -> str:
    """The original that an answered record names; empty if it names none.

    Raises:
        JournalUnreadableError: Another version wrote it, so what it names is not known.
    """
    try:
        known = orjson.loads(record or b"")
    except orjson.JSONDecodeError:  # torn, which is an unknown outcome
        return ""
    if not isinstance(known, dict) or known.get("schema") != SCHEMA:
        raise JournalUnreadableError(
            f"The journal has a record that is not of schema {SCHEMA}, so what it needs is not known. "
            "Prune with the version of n1n-prefect that wrote it, or a newer one."
        )
    return str((known.get("image") or {}).get("storage_key", ""))


# ── how it goes ──────────────────────────────────────────────────────────────


class Store(Protocol):
    """A place that can be listed and cleared."""

    address: str
    """Where it is, for people."""

    def entries(self) -> Iterator[Entry]:
        """All that lies below `n1n/`."""
        ...

    def again(self, entries: Sequence[Entry]) -> Iterator[Entry]:
        """The same entries as they are now, without those that are gone, and all that lies beside journal records."""
        ...

    def read(self, name: str) -> bytes | None:
        """The bytes of an entry, or None if it is gone."""
        ...

    def remove(self, entries: Sequence[Entry]) -> None:
        """Removes entries; one that is gone already is fine."""
        ...


def prune(store: Store, *, before: float, dry_run: bool = False) -> Generator[Entry, None, None]:
    """Removes what is old and no longer needed, and gives each entry once it is gone.

    Runs may go on meanwhile: what they write keeps its request, up to the moment before it would go.

    Args:
        store: The place.
        before: The limit, in seconds since 1970.
        dry_run: Give the entries and remove nothing.

    Raises:
        StagingError: The place cannot be listed, read or cleared; what was given before is gone, and what is left is
            whole.
        OSError: The same, of a folder.
    """
    entries = list(store.entries())
    requests = requests_in(entries)
    going = [request for request in requests if request.is_old(before)]
    gone = {request.key for request in going}
    staying = [request for request in requests if request.key not in gone]
    # Read before anything goes: what cannot be read removes nothing.
    named = _named_by(store, staying, entries, before)
    if dry_run:
        yield from (entry for request in going for entry in request.last_first())
    else:
        spared: list[Request] = []
        yield from _without_journals(store, going, before, spared)
        staying += spared
        named |= _named_by(store, spared, entries, before)
    kept = {request.key for request in staying}
    journals = {entry.name for request in going for entry in request.entries}
    rest = [entry for entry in entries if entry.name not in journals]
    yield from _without(store, old_entries(rest, before=before, kept=kept, named=named), before, dry_run=dry_run)


def _named_by(store: Store, requests: Sequence[Request], entries: Iterable[Entry], before: float) -> set[str]:
    """The originals that these requests need; asked only if there is one that would go."""
    if not any(kind_of(entry.name) == "original" and entry.modified < before for entry in entries):
        return set()
    answered = [entry.name for request in requests for entry in request.entries if entry.name.endswith(".answered")]
    with ThreadPoolExecutor(8) as threads:
        return {named_original(record) for record in threads.map(store.read, answered)} - {""}


def _without_journals(
    store: Store, going: Sequence[Request], before: float, spared: list[Request]
) -> Generator[Entry, None, None]:
    """Removes journals, some hundred at a time; what was written since the listing is spared."""
    for start in range(0, len(going), _AT_ONCE // 2):
        some = going[start : start + _AT_ONCE // 2]
        now = requests_in(store.again([entry for request in some for entry in request.entries]))
        spared += [request for request in now if not request.is_old(before)]
        histories = [request.last_first() for request in now if request.is_old(before)]
        for step in zip_longest(*histories):
            yield from _removed(store, [entry for entry in step if entry])


def _without(store: Store, going: Sequence[Entry], before: float, *, dry_run: bool) -> Generator[Entry, None, None]:
    if dry_run:
        yield from going
        return
    names = {entry.name for entry in going}
    ordered = sorted(going, key=lambda entry: entry.name)
    for start in range(0, len(ordered), _AT_ONCE):
        now = store.again(ordered[start : start + _AT_ONCE])
        yield from _removed(store, [entry for entry in now if entry.name in names and entry.modified < before])


def _removed(store: Store, entries: Sequence[Entry]) -> Iterator[Entry]:
    store.remove(entries)
    return iter(entries)


# ── a folder ─────────────────────────────────────────────────────────────────


class LocalFolder:
    """A result storage on disk. Symbolic links in it are neither followed nor removed.

    Args:
        root: The storage's root, in which `n1n` lies.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = str(root / PREFIX)

    def entries(self) -> Iterator[Entry]:
        """All that lies below `n1n/`."""
        return self._below(PREFIX)

    def again(self, entries: Sequence[Entry]) -> Iterator[Entry]:
        """The same entries as they are now, and all that lies beside journal records."""
        folders = {entry.name.rpartition("/")[0] for entry in entries if _is_journal(entry.name)}
        for folder in sorted(folders):
            yield from self._below(folder)
        for entry in entries:
            if not _is_journal(entry.name):
                with suppress(FileNotFoundError):
                    yield _entry(entry.name, (self.root / entry.name).lstat())

    def read(self, name: str) -> bytes | None:
        """The bytes of a file, or None if it is gone."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, entries: Sequence[Entry]) -> None:
        """Removes files, and the folder of a request with its last record."""
        for entry in entries:
            path = self.root / entry.name
            path.unlink(missing_ok=True)
            if _is_journal(entry.name):
                with suppress(OSError):  # not empty yet
                    path.parent.rmdir()

    def _below(self, name: str) -> Iterator[Entry]:
        folder = self.root / name
        if folder.is_symlink():
            raise StagingError(
                f"{folder} is a symbolic link, which is not followed, so what is needed is not known. Nothing was "
                "removed; prune the storage that it leads to, or move what it leads to here."
            )
        try:
            with os.scandir(folder) as found:
                inside = sorted(found, key=lambda one: one.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        for one in inside:
            own = f"{name}/{one.name}"
            if one.is_dir() or (one.is_symlink() and _is_journal(own)):
                yield from self._below(own)
            elif not one.is_symlink():
                with suppress(FileNotFoundError):
                    yield _entry(own, one.stat(follow_symlinks=False))


def _entry(name: str, found: os.stat_result) -> Entry:
    return Entry(name, found.st_size, found.st_mtime)


def _is_journal(name: str) -> bool:
    return name.startswith(f"{PREFIX}/journal/")


# ── a bucket ─────────────────────────────────────────────────────────────────


class Bucket:
    """A result storage in S3, or in a store that speaks its protocol.

    Args:
        client: A boto3 S3 client.
        bucket: The bucket's name.
        folder: What comes before `n1n/` in the bucket; may be empty.
    """

    def __init__(self, client: Any, bucket: str, folder: str = "") -> None:
        self.client = client
        self.bucket = bucket
        # As prefect-aws joins a block's folder and a path.
        self.base = (PurePosixPath(folder) / PREFIX).as_posix().removesuffix(PREFIX)
        self.address = f"s3://{bucket}/{self.base}{PREFIX}"

    def entries(self) -> Iterator[Entry]:
        """All that lies below `n1n/`."""
        return self._listed()

    def again(self, entries: Sequence[Entry]) -> Iterator[Entry]:
        """The same entries as they are now, and all that lies beside journal records; one stretch of the listing."""
        places = {_place(entry.name) for entry in entries}
        if not places:
            return
        first, last = min(places), max(places)
        for entry in self._listed(StartAfter=self.base + first[:-1]):
            if _place(entry.name) > last:
                return
            if _place(entry.name) in places:
                yield entry

    def read(self, name: str) -> bytes | None:
        """The bytes of an object, or None if it is gone."""
        from botocore.exceptions import ClientError

        with location_errors(StagingError, doing="read", bucket=self.bucket, key=self.base + name):
            try:
                return self.client.get_object(Bucket=self.bucket, Key=self.base + name)["Body"].read()
            except ClientError as exc:
                if code_of(exc) == "NoSuchKey":
                    return None
                raise

    def remove(self, entries: Sequence[Entry]) -> None:
        """Removes objects, a thousand with one call where the store can do that."""
        keys = [self.base + entry.name for entry in entries]
        for start in range(0, len(keys), _AT_ONCE):
            self._remove(keys[start : start + _AT_ONCE])

    def _listed(self, **options: Any) -> Iterator[Entry]:
        pages = self.client.get_paginator("list_objects_v2")
        with location_errors(StagingError, doing="list", bucket=self.bucket, key=f"{self.base}{PREFIX}/"):
            for page in pages.paginate(Bucket=self.bucket, Prefix=f"{self.base}{PREFIX}/", **options):
                for found in page.get("Contents", ()):
                    name = found["Key"].removeprefix(self.base)
                    yield Entry(name, found["Size"], found["LastModified"].timestamp())

    def _remove(self, keys: Sequence[str]) -> None:
        from botocore.exceptions import ClientError

        with location_errors(StagingError, doing="delete from", bucket=self.bucket, key=f"{self.base}{PREFIX}/"):
            try:
                asked = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
                failed = self.client.delete_objects(Bucket=self.bucket, Delete=asked).get("Errors", ())
            except ClientError:  # some stores know no such call, or want another checksum with it
                for key in keys:
                    self.client.delete_object(Bucket=self.bucket, Key=key)
                return
        for one in failed:
            raise StagingError(
                f"{len(failed)} objects could not be deleted, s3://{self.bucket}/{one.get('Key')} among them; grant "
                f"s3:DeleteObject below {self.address}. The store says {one.get('Code')}: {one.get('Message')}"
            )


def _place(name: str) -> str:
    """The folder of a journal record, and what else lies below `n1n/` by itself."""
    return "/".join(name.split("/")[:3])
