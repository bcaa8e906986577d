"""A manifest, found where it lies and opened: its rows one by one, never all in memory.

| Name ends in | It is |
|---|---|
| `.csv`, `.tsv` | comma- or tab-separated values in UTF-8 with a header |
| `.jsonl`, `.ndjson` | an object, or a text that is the prompt, on each line |
| `.parquet` | Parquet; needs `pip install 'n1n-prefect[parquet]'` |

The texts may be packed with gzip and then have `.gz` behind.
"""

import gzip
import hashlib
import io
import os
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from n1n_prefect.batch.local_files import open_below
from n1n_prefect.batch.parquet_rows import parquet_rows
from n1n_prefect.batch.text_rows import MAX_TEXT_BYTES, Rows, csv_rows, json_rows
from n1n_prefect.blocks import S3Location
from n1n_prefect.errors import InvalidRequestError, SourceError
from n1n_prefect.s3_errors import location_errors
from n1n_prefect.sources import SourceRules, _bucket_and_key, _printable, _scheme_of

_FORMATS = ".csv, .tsv, .jsonl, .ndjson or .parquet, the texts perhaps with .gz behind"
_PIECE = 1024**2


@dataclass(frozen=True)
class Manifest:
    """An opened manifest; its rows can be had once, while it is open."""

    uri: str
    """Where it lies, as given."""

    sha256: str
    """SHA-256 of the file, lower-case hex."""

    size_bytes: int
    """Length of the file in bytes."""

    format: str
    """Its format, as its name ends, such as `.csv` or `.csv.gz`."""

    columns: tuple[str, ...] | None
    """The columns that its header names; None for JSON Lines, where each row has its own."""

    rows: Rows
    """Its rows in their order; see `open_manifest` for what goes wrong while they are read."""


@contextmanager
def open_manifest(
    uri: str | Path, *, rules: SourceRules | None = None, source: S3Location | None = None
) -> Generator[Manifest]:
    """A manifest, opened for the length of a `with` block.

    One in S3 is fetched to a temporary file first, so that a long reading does not break off.

    Args:
        uri: A local path below the input roots, or `s3://bucket/key`.
        rules: Below which folders local files may be read.
        source: How `s3://` is reached.

    Raises:
        InvalidRequestError: Now or while rows are read: it is of no format that is known, empty, damaged, or changed
            while it was read; says at which line and what to do.
        SourceError: It is missing, or may not or cannot be read.
    """
    name, kind = _printable(str(uri)), _kind_of(str(uri))
    with _opened(uri, rules or SourceRules(), source) as file:
        before, sha256 = os.fstat(file.fileno()), _sha256_of(file)
        columns, rows = _table(file, kind, name)
        yield Manifest(str(uri), sha256, before.st_size, kind, columns, _all_of(rows, file, before, name))


def _kind_of(uri: str) -> str:
    """The format by the name's end, such as `.csv` or `.csv.gz`."""
    found = re.search(r"\.(csv|tsv|jsonl|ndjson)(\.gz)?\Z|\.parquet\Z", uri.lower())
    if not found:
        raise InvalidRequestError(f"{_printable(uri)!r} is no manifest by its name; give one that ends in {_FORMATS}.")
    return found[0]


@contextmanager
def _opened(uri: str | Path, rules: SourceRules, source: S3Location | None) -> Generator[BinaryIO]:
    scheme = _scheme_of(str(uri))
    if not scheme:
        with open_below(uri, rules) as file:
            yield file
        return
    if scheme != "s3":
        raise InvalidRequestError(
            f"{_printable(str(uri))!r} is not read; give a local path below the input roots, or s3://bucket/key."
        )
    if source is None:
        raise InvalidRequestError(f"{_printable(str(uri))!r} is in S3; pass source= an S3Location that may read it.")
    with tempfile.TemporaryFile(prefix="n1n-manifest-") as file:
        _fetch(str(uri), source, cast("BinaryIO", file))
        file.seek(0)
        yield cast("BinaryIO", file)


def _fetch(uri: str, source: S3Location, file: BinaryIO) -> None:
    from s3transfer.exceptions import RetriesExceededError

    bucket, key = _bucket_and_key(uri)
    with location_errors(SourceError, doing="read", bucket=bucket, key=key):
        client = source.get_client()
        size = client.head_object(Bucket=bucket, Key=key)["ContentLength"]
        if size > MAX_TEXT_BYTES:
            raise InvalidRequestError(f"{uri} has {size:,} bytes, and at most {MAX_TEXT_BYTES:,} are read; split it.")
        try:
            client.download_fileobj(bucket, key, file)
        except RetriesExceededError:
            raise SourceError(
                f"{_printable(uri)} broke off several times while it was read; try again.", is_transient=True
            ) from None


def _sha256_of(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := file.read(_PIECE):
        digest.update(piece)
    file.seek(0)
    return digest.hexdigest()


def _table(file: BinaryIO, kind: str, name: str) -> tuple[tuple[str, ...] | None, Rows]:
    if kind == ".parquet":
        return parquet_rows(file, name)
    if kind.endswith(".gz"):
        file = cast("BinaryIO", io.BufferedReader(cast(Any, gzip.GzipFile(fileobj=file)), _PIECE))
    if kind.startswith((".jsonl", ".ndjson")):
        return None, json_rows(file, name)
    return csv_rows(file, name, "\t" if kind.startswith(".tsv") else ",")


def _all_of(rows: Rows, file: BinaryIO, before: os.stat_result, name: str) -> Rows:
    is_empty = True
    for row in rows:
        is_empty = False
        yield row
    after = os.fstat(file.fileno())
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise InvalidRequestError(f"{name} was changed while it was read; give a finished file.")
    if is_empty:
        raise InvalidRequestError(f"{name} has no rows; write one for each image.")
