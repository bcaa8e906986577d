"""Block types and saved block documents on the server."""

import difflib
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.cli.changes import Change, Workspace
from n1n_prefect.cli.failures import one_line
from n1n_prefect.errors import InvalidRequestError

if TYPE_CHECKING:
    from prefect.blocks.core import Block
    from prefect.client.orchestration import SyncPrefectClient

OURS: "tuple[type[N1nCredentials] | type[S3Location], ...]" = (N1nCredentials, S3Location)
Ours = TypeVar("Ours", N1nCredentials, S3Location)


# ── types ────────────────────────────────────────────────────────────────────


def register(workspace: Workspace, block: "type[Block]") -> Change:
    """Makes a block type known to the server, so that it can be picked in the UI."""
    slug = block.get_block_type_slug()
    is_there, wants = registration(workspace.client, block)
    if is_there and not wants:
        return Change(f"block type {slug}", "unchanged")
    did = "updated" if is_there else "created"
    return workspace.change(f"block type {slug}", did, block.register_type_and_schema, ", ".join(wants))


def registration(client: "SyncPrefectClient", block: "type[Block]") -> tuple[bool, list[str]]:
    """Whether the server knows a block's type, and what of it is not as in this version of the package."""
    from prefect.exceptions import ObjectNotFound

    try:
        there = client.read_block_type_by_slug(block.get_block_type_slug())
    except ObjectNotFound:
        return False, []
    ours = block._to_block_type()
    texts = ("logo_url", "documentation_url", "description", "code_example")
    wants = [name for name in texts if str(getattr(ours, name)) != str(getattr(there, name))]
    try:
        client.read_block_schema_by_checksum(block._calculate_schema_checksum(), block.get_block_schema_version())
    except ObjectNotFound:
        wants.append("fields")
    return True, wants


# ── documents ────────────────────────────────────────────────────────────────


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


def found(client: "SyncPrefectClient", block: type[Ours], name: str) -> Ours:
    """The saved block of a name.

    Raises:
        InvalidRequestError: There is none; the message names those with a near name.
    """
    there = saved(client, block, name)
    if there is None:
        raise InvalidRequestError(
            f"There is no block {block.get_block_type_slug()}/{name}. {_near(client, block, name)}"
        )
    return there


def document_id(client: "SyncPrefectClient", slug: str, name: str) -> UUID:
    """The id of a saved block of any type.

    Raises:
        InvalidRequestError: There is none; the message names those there are.
    """
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_block_document_by_name(name, slug, include_secrets=False).id
    except ObjectNotFound:
        names = ", ".join(names_of(client, slug)) or "none"
        raise InvalidRequestError(
            f"There is no block {slug}/{name}. Saved of this type: {names}. Save one in the UI, under Blocks."
        ) from None


def loaded(client: "SyncPrefectClient", slug: str, name: str) -> "Block":
    """A saved block of any type, with its secrets.

    Raises:
        InvalidRequestError: There is none, or its package is not installed.
    """
    from prefect.blocks.core import Block

    document_id(client, slug, name)
    try:
        return cast("Block", Block.load(f"{slug}/{name}"))
    except Exception as exc:
        raise InvalidRequestError(
            f"The block {slug}/{name} cannot be loaded ({one_line(exc)}). A block of prefect-aws needs it: "
            "pip install 'n1n-prefect[aws]'."
        ) from exc


def names_of(client: "SyncPrefectClient", slug: str) -> list[str]:
    """The names of the saved blocks of a type, sorted."""
    import httpx

    with suppress(httpx.HTTPStatusError):  # the type is not registered
        documents = client.read_block_documents_by_type(slug, include_secrets=False)
        return sorted(document.name for document in documents if document.name)
    return []


def _near(client: "SyncPrefectClient", block: "type[Block]", name: str) -> str:
    names = names_of(client, block.get_block_type_slug())
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"Did you mean {near[0]!r}?"
    if names:
        return f"Saved are: {', '.join(names)}."
    option = "--credentials" if block is N1nCredentials else "--location"
    return f"None is saved yet; make one in the UI, or with `n1n-prefect setup {option} {name}`."


def save(workspace: Workspace, block: type[Ours], name: str, fields: Mapping[str, Any]) -> Change:
    """Saves a block with these fields; of one that is saved the others stay as they are.

    Raises:
        InvalidRequestError: A field's value is not usable.
    """
    what = f"block {block.get_block_type_slug()}/{name}"
    fresh = block(**fields)
    there = saved(workspace.client, block, name)
    if there is None:
        return workspace.change(what, "created", lambda: fresh.save(name))
    differing = [field for field in fields if getattr(there, field) != getattr(fresh, field)]
    if not differing:
        return Change(what, "unchanged")
    differs = f"another {', '.join(differing)}"
    if not workspace.may_overwrite:
        return Change(what, "kept", f"the environment says {differs}; --overwrite takes it")
    merged = block(**{**{field: getattr(there, field) for field in block.model_fields}, **fields})
    return workspace.change(what, "updated", lambda: merged.save(name, overwrite=True), f"{differs} taken")
