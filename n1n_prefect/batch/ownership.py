"""Whose folder it is: `batch.json`, which the first run of a batch writes and every later one reads."""

import json
import re
from datetime import datetime, timezone
from typing import Any, cast

from n1n_prefect.batch.store import BatchStore
from n1n_prefect.errors import InvalidRequestError

OWNER = "_batch/batch.json"
_SCHEMA = 1


def checked_batch_id(batch_id: object) -> str:
    """A batch's id, which is also the name of its folder.

    Raises:
        InvalidRequestError: It is not 1 to 100 letters, digits, dots, hyphens and underscores.
    """
    if not isinstance(batch_id, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", batch_id):
        raise InvalidRequestError(
            f"batch_id={batch_id!r:.120} is no name of a folder; write 1 to 100 letters, digits, '.', '-' and '_', the "
            "first a letter or digit."
        )
    return batch_id


def claim(store: BatchStore, batch_id: str) -> None:
    """Makes the store's folder that of a batch, unless it is another's.

    Of two batches at the same moment one gets it, where the store obeys `If-None-Match`; see `s3.put`.

    Raises:
        InvalidRequestError: It is another batch's, or `batch.json` is none of ours.
        UploadError: The store refused or could not be reached.
    """
    if is_claimed(store, batch_id):
        return
    owner = {"batch_id": batch_id, "created": datetime.now(timezone.utc).isoformat(), "schema": _SCHEMA}
    store.create(OWNER, json.dumps(owner).encode())
    # Another may have been faster.
    is_claimed(store, batch_id)


def is_claimed(store: BatchStore, batch_id: str) -> bool:
    """Whether the store's folder is a batch's already; False if it is nobody's. Nothing is written.

    Raises:
        InvalidRequestError: It is another batch's, or `batch.json` is none of ours.
        UploadError: It cannot be read.
    """
    data = store.read(OWNER)
    if data is None:
        return False
    owner = _owner_in(data)
    if owner is None:
        raise InvalidRequestError(
            f"{store.uri_of(OWNER)} was not written by a batch, so {store.uri_of()} is not taken for batch "
            f"{batch_id!r}; choose another batch_id or prefix."
        )
    if owner != batch_id:
        raise InvalidRequestError(
            f"{store.uri_of()} belongs to batch {owner!r:.120}, not to {batch_id!r}; choose another prefix, or go on "
            f"with batch_id={owner!r:.120}."
        )
    return True


def _owner_in(data: bytes) -> str | None:
    try:
        document: Any = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    fields = cast("dict[str, Any]", document)
    return fields["batch_id"] if fields.get("schema") == _SCHEMA and isinstance(fields.get("batch_id"), str) else None
