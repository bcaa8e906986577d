"""A plan in the making: its items and bad rows in local files, its counts in memory."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from n1n_prefect.batch.checking import identity_of
from n1n_prefect.batch.columns import MAX_COLUMNS
from n1n_prefect.batch.estimating import RunningEstimate
from n1n_prefect.batch.items import ITEM, BadRow, Item
from n1n_prefect.errors import InvalidRequestError

CarriedType = Literal["text", "number", "boolean"]
"""What the values of a carried column are; a column of several kinds, or of none, is `text`."""

_MAX_CHUNK_BYTES = 16 * 1024**2
_EXACT = 2**53  # whole numbers up to here are exact in every table
_BAD_ROW: TypeAdapter[BadRow] = TypeAdapter(BadRow)
_SHOWN = 20


class Draft:
    """Takes rows as they are checked.

    Args:
        folder: Where its files are made; whoever made it removes it.
        estimate: Adds up what they cost.
        chunk_size: The most items of a chunk; fewer where they are long, so that a chunk has about 16 MB at most.
    """

    def __init__(self, folder: Path, estimate: RunningEstimate, chunk_size: int) -> None:
        self.estimate = estimate
        self.items = self.bad_rows = 0
        self.first_bad_rows: list[BadRow] = []
        self.bad_rows_path = folder / "bad_rows.jsonl"
        self._chunk_size = chunk_size
        self._items_file = (folder / "items.jsonl").open("w+b")
        self._bad_rows_file = self.bad_rows_path.open("wb")
        self._ends: list[int] = []
        self._in_chunk = self._end = 0
        self._carried: dict[str, CarriedType | None] = {}

    def __enter__(self) -> "Draft":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._items_file.close()
        self._bad_rows_file.close()

    def add(self, row: Item | BadRow) -> None:
        """Takes the next row."""
        wrong = self._add_bad_row(row) if isinstance(row, BadRow) else self._add_item(row)
        if wrong:
            self._add_bad_row(BadRow(row.line, row.id, wrong))

    def close_bad_rows(self) -> None:
        """Ends the list of bad rows, which can then be read from `bad_rows_path`."""
        self._bad_rows_file.close()

    def chunks(self) -> Iterator[bytes]:
        """The documents of the chunks, an item a line, one after the other."""
        self._items_file.seek(0)
        start = 0
        for end in self._chunk_ends():
            yield self._items_file.read(end - start)
            start = end

    @property
    def chunk_count(self) -> int:
        """How many chunks there are."""
        return len(self._chunk_ends())

    @property
    def carried(self) -> dict[str, CarriedType]:
        """The carried columns in the order in which they came, and what their values are."""
        return {name: kind or "text" for name, kind in self._carried.items()}

    def _chunk_ends(self) -> list[int]:
        return [*self._ends, self._end] if self._in_chunk else self._ends

    def _add_item(self, item: Item) -> str:
        """Writes an item; what is wrong with it after all, or nothing."""
        try:
            identity = identity_of(item.request)
            line = ITEM.dump_json(item) + b"\n"
        except InvalidRequestError as error:
            return error.message
        except (PydanticSerializationError, ValueError):
            return "It cannot be written as JSON; look at how deeply extra_body is nested."
        if len(self._carried.keys() | item.carried.keys()) > MAX_COLUMNS:
            return f"It adds to columns that are more than {MAX_COLUMNS} by now; give rows the same names."
        self.estimate.add(item.request, identity, item.line)
        self._items_file.write(line)
        self._note_carried(item.carried)
        self._count(len(line))
        return ""

    def _count(self, size: int) -> None:
        self.items += 1
        self._in_chunk += 1
        self._end += size
        start = self._ends[-1] if self._ends else 0
        if self._in_chunk == self._chunk_size or self._end - start > _MAX_CHUNK_BYTES:
            self._ends.append(self._end)
            self._in_chunk = 0

    def _add_bad_row(self, row: BadRow) -> str:
        self.bad_rows += 1
        if len(self.first_bad_rows) < _SHOWN:
            self.first_bad_rows.append(row)
        self._bad_rows_file.write(_BAD_ROW.dump_json(row) + b"\n")
        return ""

    def _note_carried(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            kind, known = _type_of(value), self._carried.setdefault(name, None)
            if kind != known and kind is not None:
                self._carried[name] = kind if known is None else "text"


def _type_of(value: object) -> CarriedType | None:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "number" if -_EXACT <= value <= _EXACT else "text"
    if isinstance(value, float):
        return "number"
    return None if value is None else "text"
