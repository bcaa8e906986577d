"""The cells of a row: what each may hold, and how it is read."""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, cast

from n1n_prefect.batch.columns import KNOWN_COLUMNS, REQUEST_COLUMNS
from n1n_prefect.batch.text_rows import MAX_CELL_CHARACTERS, read_json
from n1n_prefect.errors import InvalidRequestError

MAX_ID_CHARACTERS = 200


def is_empty(value: object) -> bool:
    """Whether a cell says nothing: no value, blanks, or the NaN that tables have for none."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def checked_id(value: object) -> str:
    """A row's own id, from a text or a whole number, without spaces around it.

    Raises:
        InvalidRequestError: It is empty, too long, of another type, or has characters that nobody can see.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if is_empty(value):
        raise InvalidRequestError("id is empty; give every row its own, or leave out the whole column.")
    name = text_in("id", value)
    if len(name) > MAX_ID_CHARACTERS:
        raise InvalidRequestError(f"id has {len(name):,} characters, and at most {MAX_ID_CHARACTERS} are taken.")
    if not name.isprintable() and any(unicodedata.category(letter) in _INVISIBLE for letter in name):
        raise InvalidRequestError(f"id={name!r} holds control characters or line ends; take them out.")
    return name


_INVISIBLE = ("Cc", "Cs", "Zl", "Zp")


def text_in(name: str, value: object) -> str:
    """The text in a cell, without spaces around it.

    Raises:
        InvalidRequestError: It is something else, or far too long.
    """
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name}={value!r:.80} is {_kind(value)}; write it as a text.")
    _check_length(name, value)
    return value.strip()


def _check_length(name: str, value: str) -> None:
    if len(value) > MAX_CELL_CHARACTERS:
        raise InvalidRequestError(
            f"{name} has {len(value):,} characters, and at most {MAX_CELL_CHARACTERS:,} are taken; put a file into a "
            "bucket, and give its address."
        )


def _kind(value: object) -> str:
    return _KINDS.get(type(value).__name__, f"of type {type(value).__name__}")


_KINDS = {
    "bool": "a boolean", "int": "a number", "float": "a number", "list": "a list", "dict": "an object", "str": "a text",
}  # fmt: skip


def request_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `ImageRequest` that a row's cells give.

    Raises:
        InvalidRequestError: One cannot be read.
    """
    fields = {name: _field(name, given[name]) for name in REQUEST_COLUMNS if name in given}
    if "image" in given:
        fields["images"] = _addresses(given["image"])
    return fields


def _field(name: str, value: Any) -> Any:
    if name in _READERS:
        return _READERS[name](value)
    if name in _TEXTS:
        return text_in(name, value)
    return value.strip() if isinstance(value, str) else value


def _prompt(value: object) -> str:
    text_in("prompt", value)
    return cast("str", value)


def _addresses(value: object) -> list[Any]:
    """Input images from a list, a JSON array, addresses with `|` between them, or one address."""
    if not isinstance(value, str):
        addresses = cast("list[Any]", value) if isinstance(value, list) else [value]
    elif value.lstrip().startswith("["):
        addresses = _of_type("images", value, list, 'an array of texts, such as ["a.png", "b.png"]')
    else:
        addresses = [part.strip() for part in value.split("|") if part.strip()]
    for address in addresses:
        text_in("images", address)
    return addresses


def _object(name: str) -> Callable[[object], dict[str, Any]]:
    def read(value: object) -> dict[str, Any]:
        return _of_type(name, value, dict, 'an object of JSON, such as {"name": "value"}')

    return read


def _of_type(name: str, value: object, kind: type, words: str) -> Any:
    if isinstance(value, str):
        _check_length(name, value)
        try:
            value = read_json(value)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"{name} must be {words}. {error.message}") from None
    if not isinstance(value, kind):
        raise InvalidRequestError(f"{name}={value!r:.80} is {_kind(value)}; write {words}.")
    return value


_TEXTS = frozenset(("model", "aspect_ratio", "image_size", "thinking_level", "system_instruction"))
_READERS: dict[str, Callable[[Any], Any]] = {
    "prompt": _prompt,
    "images": _addresses,
    "safety_settings": _object("safety_settings"),
    "extra_body": _object("extra_body"),
}


def names_in(value: object) -> tuple[str, ...]:
    """Names from a list, or from a text with commas or spaces between them; each once.

    Raises:
        InvalidRequestError: It is something else.
    """
    parts = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise InvalidRequestError(f"variants={value!r:.80} is {_kind(value)}; write names with spaces between them.")
    return tuple(dict.fromkeys(text_in("variants", name) for name in cast("list[Any]", parts) if name != ""))


def carried_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a row that mean nothing to us, as they are; empty texts as None.

    Raises:
        InvalidRequestError: One is no text, number or boolean.
    """
    return {name: _carried(name, value) for name, value in values.items() if name not in KNOWN_COLUMNS}


def _carried(name: str, value: Any) -> Any:
    if is_empty(value):
        return None
    if isinstance(value, str):
        _check_length(f"column {name!r:.80}", value)
    elif isinstance(value, float) and math.isinf(value):
        raise InvalidRequestError(f"column {name!r:.80} holds {value}, which JSON does not have; write it as a text.")
    elif not isinstance(value, bool | int | float):
        raise InvalidRequestError(
            f"column {name!r:.80} holds {_kind(value)}; what is carried through are texts, numbers and booleans, so "
            "write it as a text."
        )
    return value
