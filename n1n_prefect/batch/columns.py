"""The columns of a manifest: which are ours, which are carried through, and which are most likely a mistake."""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import ImageRequest, excerpt

REQUEST_COLUMNS = tuple(field.name for field in dataclasses.fields(ImageRequest))
"""Columns that are fields of `ImageRequest`."""

KNOWN_COLUMNS = (*REQUEST_COLUMNS, "image", "id", "key", "variants")
"""All columns that mean something; every other one is carried through to the results."""

MAX_COLUMNS = 200
_SHORTEST_TO_GUESS = 4
_LIKENESS = 0.8
# A letter away from a column of ours, and words of their own.
_OTHER_WORDS = frozenset({"mode", "simple", "steam"})


def check_header(names: tuple[str, ...], *, reserved: frozenset[str], defaults: Mapping[str, Any]) -> None:
    """Refuses a table's header that cannot be meant.

    Args:
        names: The columns, in order.
        reserved: Names of the results table's own columns, in lower case.
        defaults: What holds where a row says nothing.

    Raises:
        InvalidRequestError: Says which column, and what to do.
    """
    wrong = wrong_names(names, reserved)
    if not wrong and not set(names) & set(KNOWN_COLUMNS):
        wrong = (
            f"it is to name the columns and has {_listed(names)}, none of which is known; write a first line such as "
            "id,prompt,aspect_ratio"
        )
    if not wrong and "prompt" not in names and "prompt" not in defaults:
        wrong = f"there is no column 'prompt' among {_listed(names)}; add it"
    if wrong:
        raise InvalidRequestError(f"{wrong}.")


@lru_cache(maxsize=1024)
def wrong_names(names: tuple[str, ...], reserved: frozenset[str]) -> str:
    """What is wrong with the names of a header or of one row's fields, and what to do; empty if nothing."""
    if len(names) > MAX_COLUMNS:
        return f"there are {len(names)} columns and at most {MAX_COLUMNS} are taken; leave some out"
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        return f"there is more than one column {twice[0]!r}; rename or remove one"
    if {"image", "images"} <= set(names):
        return "there are both a column 'image' and a column 'images'; keep one"
    return next(filter(None, (_wrong_name(place, name, reserved) for place, name in enumerate(names, 1))), "")


def _wrong_name(place: int, name: str, reserved: frozenset[str]) -> str:
    if name in KNOWN_COLUMNS:
        return ""
    if not name.strip():
        return f"column {place} has no name; name it, or remove it (pandas writes one for its index: index=False)"
    near = _meant_by(name)
    if near:
        return f"column {name!r:.80} is most likely {near!r}; call it that, or something else if it is another thing"
    if name.lower() in reserved:
        return f"column {name!r:.80} is one that the results have themselves; rename it, for instance to 'my_{name}'"
    return ""


def _meant_by(name: str) -> str:
    """The column of ours that an unknown name is most likely a misspelling of, or nothing."""
    plain = re.sub(r"[\s-]+", "_", name.strip().lower())
    if plain in KNOWN_COLUMNS:
        return plain
    if len(plain) < _SHORTEST_TO_GUESS or plain in _OTHER_WORDS:
        return ""
    return next(iter(difflib.get_close_matches(plain, KNOWN_COLUMNS, 1, _LIKENESS)), "")


def _listed(names: tuple[str, ...]) -> str:
    return excerpt(", ".join(repr(excerpt(name, 40)) for name in names[:10]), 200)
