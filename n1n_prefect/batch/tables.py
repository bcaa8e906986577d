"""The table of a batch's results, as JSON Lines and as Parquet."""

import os
import subprocess
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from pydantic.dataclasses import dataclass

from n1n_prefect.batch.parts import JSON_LINES
from n1n_prefect.batch.results import COLUMNS, ItemResult, Kind, dumped, row_of
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.errors import InvalidRequestError, StagingError, UploadError
from n1n_prefect.masking import without_secrets
from n1n_prefect.run_log import get_logger

LINES, PARQUET = "results.jsonl", "results.parquet"
_PARQUET_TYPE = "application/vnd.apache.parquet"
_SCRIPT = Path(__file__).with_name("results_parquet.py")
# Not by its path: that would put the folder first in the search for modules, and ours is named as one of Python's.
_RUN = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
_KINDS: dict[type, Kind] = {bool: "boolean", int: "integer", float: "number", str: "text"}


@dataclass(frozen=True)
class Tables:
    """Where a batch's results are."""

    jsonl: str
    """The address of the JSON Lines."""

    parquet: str
    """The address of the Parquet; empty where none was written, and the log says why."""

    rows: int
    """How many rows each has."""


def write_tables(store: BatchStore, results: Iterable[ItemResult], *, carried: Iterable[str]) -> Tables:
    """Puts the table of results into the batch's folder, in the place of an earlier one.

    The rows pass through files below the system's temporary folder (`TMPDIR`), about 1.5 kB each. The
    Parquet is made of them by a short-lived process and needs PyArrow; without it, or where that fails,
    the JSON Lines alone is written, and an earlier Parquet, which would tell another story, is removed.

    Args:
        store: The batch's folder.
        results: One for each item, as `all_results` gives them; they are taken one by one.
        carried: Names of the columns that the manifest carries through, in order. In Parquet each has the narrowest
            type that holds all its values: bool, int64, double, or else a string, as has one without any value.

    Raises:
        InvalidRequestError: A carried column has the name of one of the table's own.
        UploadError: The store refused or could not be reached.
        StagingError: The temporary folder cannot be written.
    """
    kinds = dict.fromkeys(_checked(carried))
    with _folder() as folder:
        rows = _write_lines(folder / LINES, results, kinds)
        store.write_file(LINES, folder / LINES, JSON_LINES)
        has_parquet = _write_parquet(folder, kinds, rows, store.uri_of(LINES))
        if has_parquet:
            store.write_file(PARQUET, folder / PARQUET, _PARQUET_TYPE)
        else:
            _remove(store, PARQUET)
    return Tables(store.uri_of(LINES), store.uri_of(PARQUET) if has_parquet else "", rows)


@contextmanager
def _folder() -> Generator[Path]:
    try:
        with TemporaryDirectory(prefix="n1n-batch-") as folder:
            yield Path(folder)
    except OSError as exc:
        raise StagingError(
            f"The table of results cannot be written below {gettempdir()} ({exc.strerror or exc}). Make room there, or "
            "name another folder by TMPDIR, and run the batch again; nothing is lost."
        ) from exc


# ── JSON Lines ───────────────────────────────────────────────────────────────


def _checked(carried: Iterable[str]) -> list[str]:
    names = list(carried)
    for name in names:
        if name in COLUMNS:
            raise InvalidRequestError(
                f"column {name!r} of the manifest is one of the results' own; rename it, such as to {'my_' + name!r}."
            )
    return names


def _write_lines(path: Path, results: Iterable[ItemResult], kinds: "dict[str, Kind | None]") -> int:
    """Writes a row for each result, and notes what the carried columns hold; how many rows there are."""
    rows = 0
    with path.open("wb") as file:
        for result in results:
            file.write(dumped(row_of(result, kinds)) + b"\n")
            for name, kind in kinds.items():
                kinds[name] = _widened(kind, result.carried.get(name))
            rows += 1
    return rows


def _widened(kind: Kind | None, value: Any) -> Kind | None:
    """The narrowest kind that holds the value as well; None while there is no value."""
    own = kind if value is None else _kind_of(value)
    if kind is None or own == kind:
        return own
    return "number" if {own, kind} == {"integer", "number"} else "text"


def _kind_of(value: Any) -> Kind:
    if type(value) is int and not -(1 << 63) <= value < 1 << 63:
        return "text"
    return _KINDS.get(type(value), "text")


# ── Parquet ──────────────────────────────────────────────────────────────────


def _write_parquet(folder: Path, kinds: Mapping[str, Kind | None], rows: int, lines_at: str) -> bool:
    """Whether there is a Parquet now; if not, the log says why."""
    if find_spec("pyarrow") is None:
        get_logger().info(
            "The results are in %s alone. For results.parquet as well: pip install 'n1n-prefect[parquet]'.", lines_at
        )
        return False
    columns = [(name, column.kind, column.meaning) for name, column in COLUMNS.items()]
    columns += [(name, kind or "text", "Carried from the manifest.") for name, kind in kinds.items()]
    (folder / "columns.json").write_bytes(dumped(columns))
    said = _run(folder, timeout_seconds=60 + rows / 100)
    if said:
        get_logger().warning("results.parquet was not written (%s); the results are whole in %s.", said, lines_at)
    return not said


def _run(folder: Path, timeout_seconds: float) -> str:
    """Runs the script in the folder; what went wrong in words, or nothing."""
    command = [sys.executable, "-c", _RUN, str(_SCRIPT), LINES, PARQUET, "columns.json"]
    # Arrow's own allocator keeps 25 MB more, for speed that is not missed here.
    options: Any = {"cwd": folder, "env": {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}}
    try:
        subprocess.run(command, **options, capture_output=True, check=True, timeout=timeout_seconds)  # noqa: S603
    except subprocess.CalledProcessError as exc:
        last = exc.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return without_secrets(last[:300]) or f"its process ended with {exc.returncode}"
    except (OSError, subprocess.TimeoutExpired) as exc:
        return without_secrets(str(exc)[:300])
    return ""


def _remove(store: BatchStore, name: str) -> None:
    try:
        store.delete(name)
    except UploadError as error:
        get_logger().warning("An earlier %s may be out of date and could not be removed. %s", store.uri_of(name), error)
