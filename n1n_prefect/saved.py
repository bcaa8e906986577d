"""What is saved on a Prefect server: block documents by their names, and how one is saved again."""

import difflib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from n1n_prefect.blocks import N1nCredentials, S3Location

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

Ours = TypeVar("Ours", N1nCredentials, S3Location)


def names_of(client: "SyncPrefectClient", slug: str) -> list[str]:
    """The names of the saved blocks of a type, sorted; none where nobody has saved one."""
    import httpx

    with suppress(httpx.HTTPStatusError):  # the type is not registered
        documents = client.read_block_documents_by_type(slug, include_secrets=False)
        return sorted(document.name for document in documents if document.name)
    return []


def near(name: str, names: Iterable[str]) -> str | None:
    """The one of some names that was probably meant, if there is such a one."""
    return next(iter(difflib.get_close_matches(name, list(names), 1)), None)


def saved(client: "SyncPrefectClient", block: type[Ours], name: str) -> Ours | None:
    """The saved block of a name, or None.

    Raises:
        InvalidRequestError: What is saved is no longer usable.
    """
    from prefect.exceptions import ObjectNotFound

    try:
        document = client.read_block_document_by_name(name, block.get_block_type_slug())
    except ObjectNotFound:
        return None
    return block(**document.data)


def differing(there: Ours, block: type[Ours], fields: Mapping[str, Any]) -> list[str]:
    """Which of some fields a block has otherwise.

    Raises:
        InvalidRequestError: A field's value is not usable.
    """
    fresh = block(**fields)
    return [field for field in fields if getattr(there, field) != getattr(fresh, field)]


def merged(there: Ours, block: type[Ours], fields: Mapping[str, Any]) -> Ours:
    """The block with these fields, its others as they are."""
    return block(**{**{field: getattr(there, field) for field in block.model_fields}, **fields})


def save(block: type[Ours], name: str, fields: Mapping[str, Any]) -> None:
    """Saves a block with these fields; of one that is saved the others stay as they are.

    Raises:
        InvalidRequestError: A field's value is not usable.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        there = saved(client, block, name)
    fresh = merged(there, block, fields) if there else block(**fields)
    fresh.save(name, overwrite=True)
