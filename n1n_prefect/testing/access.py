"""Whose call it is: the key, as the gateway family looks for it."""

from collections.abc import Collection, Mapping

from n1n_prefect.testing.envelopes import RejectedError, own


def key_of(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """The key of a request without its `sk-`; the query's and Google's header win over `Authorization`.

    Args:
        headers: By lower-case name.
        query: Parameters of the address.
    """
    given = query.get("key") or headers.get("x-goog-api-key") or headers.get("authorization", "")
    return given.removeprefix("Bearer ").removeprefix("bearer ").strip().removeprefix("sk-")


def authorise(headers: Mapping[str, str], query: Mapping[str, str], api_keys: Collection[str]) -> None:
    """Lets a known key pass.

    Raises:
        RejectedError: The key is missing or unknown: the gateway's own 401.
    """
    if key_of(headers, query) not in {key.removeprefix("sk-") for key in api_keys}:
        raise RejectedError(401, own("Invalid token"))
