"""Block types and saved block documents on the server."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.cli.changes import Change, Workspace
from n1n_prefect.cli.failures import one_line
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.saved import Ours, differing, merged, names_of, near, saved

if TYPE_CHECKING:
    from prefect.blocks.core import Block
    from prefect.client.orchestration import SyncPrefectClient

OURS: "tuple[type[N1nCredentials] | type[S3Location], ...]" = (N1nCredentials, S3Location)


# ── types ────────────────────────────────────────────────────────────────────


def register(workspace: Workspace, block: "type[N1nCredentials] | type[S3Location]") -> Change:
    """Makes a block type known to the server, so that it can be picked in the UI."""
    slug = block.get_block_type_slug()
    is_there, wants = registration(workspace.client, block)
    if is_there and not wants:
        return Change(f"block type {slug}", "unchanged")
    did = "updated" if is_there else "created"
    return workspace.change(f"block type {slug}", did, block.register_type_and_schema, ", ".join(wants))


def registration(
    client: "SyncPrefectClient", block: "type[N1nCredentials] | type[S3Location]"
) -> tuple[bool, list[str]]:
    """Whether the server knows a block's type, and what of it is not as in this version of the package."""
    from prefect.exceptions import ObjectNotFound

    try:
        there = client.read_block_type_by_slug(block.get_block_type_slug())
    except ObjectNotFound:
        return False, []
    ours = {
        "logo_url": block._logo_url,
        "documentation_url": block._documentation_url,
        "description": block.get_description(),
        "code_example": block.get_code_example(),
    }
    wants = [name for name, said in ours.items() if str(said) != str(getattr(there, name))]
    return True, wants if _knows_fields(client, block, there.id) else [*wants, "fields"]


def _knows_fields(client: "SyncPrefectClient", block: "type[Block]", type_id: UUID) -> bool:
    """Whether the latest of a type's schemas is that of this version of the package."""
    latest = client.get_most_recent_block_schema_for_block_type(type_id)
    if latest is None or latest.version != block.get_block_schema_version():
        return False
    # The server gives no definitions back; what they say changes with the package's version.
    ours, there = block.model_json_schema(), latest.fields
    return all(ours.get(part) == there.get(part) for part in {*ours, *there} - {"definitions"})


# ── documents ────────────────────────────────────────────────────────────────


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


def _near(client: "SyncPrefectClient", block: "type[Block]", name: str) -> str:
    names = names_of(client, block.get_block_type_slug())
    if meant := near(name, names):
        return f"Did you mean {meant!r}?"
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
    there = saved(workspace.client, block, name)
    if there is None:
        fresh = block(**fields)
        return workspace.change(what, "created", lambda: fresh.save(name))
    others = differing(there, block, fields)
    if not others:
        return Change(what, "unchanged")
    differs = f"another {', '.join(others)}"
    if not workspace.may_overwrite:
        return Change(what, "kept", f"the environment says {differs}; --overwrite takes it")
    update = merged(there, block, fields)
    return workspace.change(what, "updated", lambda: update.save(name, overwrite=True), f"{differs} taken")
