"""References to saved blocks in the place of a flow run's block parameters.

Prefect stores a block that a flow was called with by value, its secrets masked, so that it
cannot be run again as it is. A block that was saved left its document's id beside them.
"""

import uuid
from collections.abc import Generator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from n1n_prefect.client import DEFAULT_BASE_URL
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.saved import names_of

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_MASKS = ("**********", "********")  # what pydantic and Prefect's server show of a secret
# Of our credentials, and what they are where a run's parameters leave them out; with others what was paid is not found.
_WHO_PAYS = {"base_url": DEFAULT_BASE_URL, "account": "default"}


class SavedBlocks:
    """Puts references to saved blocks into parameters, and says which.

    Args:
        client: The Prefect API.
        may_pay_again: Whether credentials may be others than the run had.
    """

    def __init__(self, client: "SyncPrefectClient", *, may_pay_again: bool) -> None:
        self.client = client
        self.may_pay_again = may_pay_again

    def put_into(self, parameters: Mapping[str, Any], chosen: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
        """The parameters, with which the run can be run again.

        Args:
            parameters: As the run has them.
            chosen: Type and name of the block for a parameter.

        Raises:
            InvalidRequestError: A block is not saved, or is another than the run had.
        """
        return {
            name: self._chosen(name, value, *chosen[name]) if name in chosen else self._referring(name, value)
            for name, value in parameters.items()
        }

    def _chosen(self, name: str, stored: Any, slug: str, block: str) -> Any:
        from prefect.exceptions import ObjectNotFound

        try:
            document = self.client.read_block_document_by_name(block, slug, include_secrets=False)
        except ObjectNotFound:
            raise InvalidRequestError(f"There is no block {slug}/{block}. {self._saved(slug)}") from None
        had = self._dereferenced(stored)
        was = cast("dict[str, Any]", had).get("block_type_slug") if isinstance(had, dict) else None
        if was and was != slug:
            raise InvalidRequestError(
                f"Parameter {name!r} is a block of type {was}, not {slug}: --block {name}={was}/NAME. "
                f"{self._saved(was)}"
            )
        return self._reference(name, had, document)

    def _dereferenced(self, stored: Any) -> Any:
        """The block behind a reference as it would be stored by value."""
        from prefect.exceptions import ObjectNotFound

        reference = cast("dict[str, Any]", stored).get("$ref") if isinstance(stored, dict) else None
        document_id = reference.get("block_document_id", "") if isinstance(reference, dict) else reference
        with suppress(ValueError, ObjectNotFound):
            document = self.client.read_block_document(uuid.UUID(str(document_id)), include_secrets=False)
            slug = document.block_type.slug if document.block_type else ""
            return {**document.data, "block_type_slug": slug}
        return stored

    def _referring(self, name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self._referring(name, item) for item in cast("list[Any]", value)]
        if not isinstance(value, dict):
            return value
        stored = cast("dict[str, Any]", value)
        slug, document_id = stored.get("block_type_slug"), stored.get("_block_document_id")
        if slug and document_id:
            return self._reference(name, stored, self._document(name, slug, document_id))
        if slug and any(field in _MASKS for field in _texts(stored)):
            raise InvalidRequestError(
                f"Parameter {name!r} is a block that was never saved, and Prefect keeps no secrets of such. Give a "
                f"saved one in its place: --block {name}={slug}/NAME. {self._saved(slug)}"
            )
        return {key: self._referring(name, item) for key, item in stored.items()}

    def _document(self, name: str, slug: str, document_id: str) -> Any:
        from prefect.exceptions import ObjectNotFound

        try:
            return self.client.read_block_document(uuid.UUID(document_id), include_secrets=False)
        except ObjectNotFound:
            raise InvalidRequestError(
                f"The block that parameter {name!r} was is deleted. Give another: --block {name}={slug}/NAME. "
                f"{self._saved(slug)}"
            ) from None

    def _reference(self, name: str, stored: Any, document: Any) -> dict[str, Any]:
        if isinstance(stored, dict) and not self.may_pay_again:
            _refuse_another_payer(name, cast("dict[str, Any]", stored), document)
        changed = [field for field in document.data if _differs(stored, document.data, field)]
        note = f", whose {', '.join(changed)} changed since" if changed else ""
        print(f"Parameter {name!r} is taken from the saved block {document.name!r}{note}", flush=True)
        return {"$ref": {"block_document_id": str(document.id)}}

    def _saved(self, slug: str) -> str:
        """Which blocks of a type there are, in a sentence."""
        names = names_of(self.client, slug)
        return f"Saved are: {', '.join(names)}." if names else "None is saved yet; make one in the UI."


def _refuse_another_payer(name: str, stored: Mapping[str, Any], document: Any) -> None:
    for field, default in _WHO_PAYS.items():
        had, has = stored.get(field, default), document.data.get(field, default)
        if stored.get("block_type_slug") == "n1n-credentials" and had != has:
            raise InvalidRequestError(
                f"Parameter {name!r} had {field}={had!r}, and block {document.name!r} has {has!r}: what was paid for "
                f"would not be found, and paid again. Give the block that it had, --block {name}=n1n-credentials/NAME, "
                "or pass --pay-again."
            )


def _differs(stored: Any, saved: Mapping[str, Any], field: str) -> bool:
    """Whether a field of a saved block is another than that of the block as the run had it."""
    if not isinstance(stored, dict) or field not in stored:
        return False
    was, now = cast("dict[str, Any]", stored)[field], saved[field]
    return was != now and was not in _MASKS and now not in _MASKS and not isinstance(now, (dict, list))


def _texts(value: Any) -> Generator[str, None, None]:
    """Every text in a value of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        inside = cast("dict[str, Any]", value).values() if isinstance(value, dict) else cast("list[Any]", value)
        for item in inside:
            yield from _texts(item)
