"""Steps of `prefect deploy`: what a deployment has to know of the machine and server that it is made from.

They are used in `prefect.yaml`, and `saved_blocks` in `flows/serve.py` too.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.saved import names_of, near

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_OPTIONS = {"n1n-credentials": "--credentials", "s3-image-location": "--location"}


def saved_blocks(**blocks: str) -> dict[str, dict[str, Any]]:
    """A reference for each block, which the run's own process resolves when it starts.

    By the document's id, since that is what a form in the UI shows as chosen: a reference by
    `block_document_slug` works too, and leaves the form's field empty. An id must not stand in
    a `prefect.yaml` itself, because `prefect deploy` puts the block's contents in its place,
    the key in clear (seen in 3.9.1; 3.8.8 has the same code). What a step returns it leaves alone.

    Args:
        blocks: `type-slug/name` of the saved block for each parameter, such as
            `credentials="n1n-credentials/default"`.

    Returns:
        For each parameter `{"$ref": {"block_document_id": "…"}}`.

    Raises:
        InvalidRequestError: A block is not saved; the message names it, those that are, and the remedy.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {parameter: _reference(client, slug) for parameter, slug in blocks.items()}


def working_folder() -> dict[str, str]:
    """Where `prefect deploy` is run, as `path`: the folder that a worker on this machine takes the flows from."""
    return {"path": str(Path.cwd())}


def _reference(client: "SyncPrefectClient", block: str) -> dict[str, Any]:
    from prefect.exceptions import ObjectNotFound

    type_slug, _, name = block.partition("/")
    try:
        document = client.read_block_document_by_name(name, type_slug, include_secrets=False)
    except ObjectNotFound:
        raise InvalidRequestError(_missing(client, type_slug, name)) from None
    return {"$ref": {"block_document_id": str(document.id)}}


def _missing(client: "SyncPrefectClient", type_slug: str, name: str) -> str:
    """Which block is not there, which are, and what to do."""
    saved = names_of(client, type_slug)
    meant = near(name, saved)
    hint = f"did you mean {meant!r}? " if meant else ""
    known = f"Saved are: {', '.join(saved)}." if saved else "None of this type is saved yet."
    option = _OPTIONS.get(type_slug)
    remedy = f"Save it with `n1n-prefect setup {option} {name}` or in the UI" if option else "Save it in the UI"
    return (
        f"There is no block {type_slug}/{name} at {client.api_url}; {hint}{known} {remedy}, or name another where the "
        "deployment is written."
    )
