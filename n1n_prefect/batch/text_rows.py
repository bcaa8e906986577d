"""The rows of a manifest in text: comma- or tab-separated values, and JSON Lines.

Nothing is read ahead and nothing grows: a line, a cell and the whole text have limits.
"""

import csv
import gzip
import json
import re
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, NoReturn

from n1n_prefect.batch.items import BadRow
from n1n_prefect.errors import InvalidRequestError

MAX_TEXT_BYTES = 16 * 1024**3
"""The longest manifest, unpacked, in bytes."""

MAX_LINE_BYTES = 8 * 1024**2
"""The longest line of a text."""

MAX_CELL_CHARACTERS = 1_000_000
"""The longest value of one column in one row."""


class RawRow(NamedTuple):
    """A row as it stands in the manifest."""

    line: int
    """Where it begins: the line of a text, from 1 with the header counted, or the row of a Parquet."""

    values: Mapping[str, Any]
    """Its values by column: texts from comma-separated values, else whatever the format has."""


Rows = Iterator[RawRow | BadRow]
"""Rows in the manifest's order; one that cannot be taken apart is a `BadRow`."""


def csv_rows(file: BinaryIO, name: str, delimiter: str) -> tuple[tuple[str, ...], Rows]:
    """The header of comma-separated values, and the rows below it.

    Raises:
        InvalidRequestError: Now or while rows are read: the text cannot be taken apart; says at which line and why.
    """
    # The module's own limit, for the whole process, is 131,072.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_CHARACTERS))
    reader = csv.reader(_lines(file, name), delimiter=delimiter, strict=True)
    numbered = _numbered(reader, name)
    _, header = next(numbered, (0, None))
    if header is None:
        raise InvalidRequestError(f"{name} is empty; write a header such as id,prompt and a row for each image.")
    names = tuple(cell.strip() for cell in header)
    other = next((mark for mark in (";", "\t") if len(names) == 1 and mark in names[0]), "")
    if other:
        raise InvalidRequestError(
            f"{name}, line 1: the columns are separated by {other!r}; separate them by commas, or by tabs and call the "
            "file .tsv."
        )
    return names, (_csv_row(line, names, cells) for line, cells in numbered)


def _numbered(reader: Any, name: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with the line on which each begins."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            _refuse_csv(name, line, str(exc))
        if cells:
            yield line, cells


def _refuse_csv(name: str, line: int, said: str) -> NoReturn:
    if "field larger" in said:
        what = (
            f"a cell has more than {MAX_CELL_CHARACTERS:,} characters; most likely a quote is opened there and "
            "never closed"
        )
    elif "unexpected end" in said:
        what = "a quote is opened and never closed; close it, and write a quote inside a cell twice"
    elif "new-line" in said:
        what = "it holds a bare carriage return; save the file with line ends of Unix or Windows"
    else:
        what = f"it cannot be taken apart ({said}); put cells with quotes in quotes, and write each quote inside twice"
    raise InvalidRequestError(f"{name}, line {line}: {what}.")


def _csv_row(line: int, names: tuple[str, ...], cells: list[str]) -> RawRow | BadRow:
    if len(cells) == len(names):
        return RawRow(line, dict(zip(names, cells, strict=True)))
    identity = dict(zip(names, cells, strict=False)).get("id", "")[:200]
    remedy = "put a cell that holds a comma in quotes" if len(cells) > len(names) else "separate all, empty ones too"
    return BadRow(line, identity, f"Its cells are {len(cells)} for {len(names)} columns; {remedy}.")


def json_rows(file: BinaryIO, name: str) -> Rows:
    """A row for each line that is not blank: an object, or a bare text, which is its prompt.

    Raises:
        InvalidRequestError: While rows are read: it is no UTF-8, or a line is too long; says at which line.
    """
    for number, line in enumerate(_lines(file, name), 1):
        if line.strip():
            yield _json_row(number, line)


def _json_row(number: int, line: str) -> RawRow | BadRow:
    try:
        values = read_json(line)
    except InvalidRequestError as error:
        return BadRow(number, "", error.message)
    if isinstance(values, str):
        values = {"prompt": values}
    if isinstance(values, dict):
        return RawRow(number, values)
    return BadRow(number, "", f"A line is an object or a text in quotes, not {line.strip()!r:.40}.")


def read_json(text: str) -> Any:
    """A value from JSON, as strictly as others read it: no NaN, no name twice, no half of a surrogate pair.

    Raises:
        InvalidRequestError: It is none; says why.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as exc:
        raise InvalidRequestError(f"It is no JSON: {exc.msg} at column {exc.colno}.") from None
    except UnicodeEncodeError:
        raise InvalidRequestError("It holds half of a surrogate pair, which is no character; write both.") from None
    except RecursionError:
        raise InvalidRequestError("It is nested too deeply.") from None
    except ValueError as exc:  # the interpreter's limit on the digits of a number
        raise InvalidRequestError(f"It is no JSON that can be read: {exc}.") from None
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidRequestError(f"It has {twice!r:.80} more than once; keep one.")
    return values


def _refuse_constant(word: str) -> NoReturn:
    raise InvalidRequestError(f"It holds {word}, which JSON does not have; write null.")


# ── lines ────────────────────────────────────────────────────────────────────


def _lines(file: BinaryIO, name: str) -> Iterator[str]:
    """The lines with their ends, and without a byte order mark."""
    for number, line in enumerate(_raw_lines(file, name), 1):
        if number == 1:
            _check_start(line, name)
        if b"\0" in line:
            raise InvalidRequestError(
                f"{name}, line {number} holds a NUL byte, so it is no text in UTF-8, or is damaged; save it again."
            )
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as exc:
            raise InvalidRequestError(
                f"{name}, line {number} is not UTF-8 (byte 0x{line[exc.start]:02x} at place {exc.start + 1}); save it "
                "as UTF-8, in Excel as 'CSV UTF-8'."
            ) from None


def _raw_lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    total = 0
    with _unpacking(name):
        for number, line in enumerate(_pieces(file), 1):
            total += len(line)
            if len(line) > MAX_LINE_BYTES:
                raise InvalidRequestError(
                    f"{name}, line {number} has more than {MAX_LINE_BYTES:,} bytes; write each row on a line of its "
                    "own, and images as addresses."
                )
            if total > MAX_TEXT_BYTES:
                raise InvalidRequestError(
                    f"{name} has more than {MAX_TEXT_BYTES:,} bytes unpacked; split it into several batches."
                )
            yield line


def _pieces(file: BinaryIO) -> Iterable[bytes]:
    return iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")


@contextmanager
def _unpacking(name: str) -> Generator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise InvalidRequestError(f"{name} is gzip that breaks off or is damaged ({exc}); pack it again.") from None


_OTHER_FILES = (
    (b"\x1f\x8b", "is packed with gzip; add .gz to its name"),
    (b"PAR1", "is a Parquet file; call it .parquet"),
    (b"PK\x03\x04", "is a zip file, perhaps an Excel workbook; save it as 'CSV UTF-8'"),
    (b"\xff\xfe", "is UTF-16; save it as UTF-8, in Excel as 'CSV UTF-8'"),
    (b"\xfe\xff", "is UTF-16; save it as UTF-8, in Excel as 'CSV UTF-8'"),
)


def _check_start(line: bytes, name: str) -> None:
    for start, what in _OTHER_FILES:
        if line.startswith(start):
            raise InvalidRequestError(f"{name} {what}.")
