"""What makes two paid requests the same one."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlsplit

from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import ImageRequest

SCHEMA_VERSION = 1
_NOT_OPTIONS = ("prompt", "images", "model", "sample", "stream")


def request_key(request: ImageRequest, image_hashes: Sequence[str], *, base_url: str, account: str, scope: str) -> str:
    """The identity of a paid request, SHA-256 as hex: equal for equal requests, on every machine and at any time.

    An option left at its default is not part of it, so that a new option changes no key.
    Neither are secrets, timeouts, or how an input was named; `stream` changes no answer.

    Args:
        request: What is asked.
        image_hashes: SHA-256 of every input image, in order.
        base_url: The gateway.
        account: Whose results these are.
        scope: Within what results are shared, such as a run's id.

    Raises:
        InvalidRequestError: `extra_body` holds something that JSON does not, or `base_url` is no address.
    """
    if len(image_hashes) != len(request.images):
        raise InvalidRequestError(f"{len(image_hashes)} hashes for {len(request.images)} input images.")
    identity = {
        "schema": SCHEMA_VERSION,
        "prompt": request.prompt,
        "model": request.model.removeprefix("models/"),
        "options": _options(request),
        "images": list(image_hashes),
        "sample": request.sample,
        "base_url": _gateway(base_url),
        "account": account,
        "scope": scope,
    }
    return hashlib.sha256(_canonical(identity)).hexdigest()


def _options(request: ImageRequest) -> dict[str, Any]:
    fields = (field for field in dataclasses.fields(ImageRequest) if field.name not in _NOT_OPTIONS)
    values = ((field, getattr(request, field.name)) for field in fields)
    return {field.name: value for field, value in values if value not in (field.default, {})}


def _canonical(identity: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(_plain(identity), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    except RecursionError:
        raise InvalidRequestError("extra_body is nested too deeply, or holds itself.") from None
    return text.encode("ascii")


def _plain(value: Any) -> Any:
    """A value of JSON in the one form that equal values share: 1 for 1.0, lists for tuples."""
    if isinstance(value, str | bool) or value is None:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return int(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("Sequence[Any]", value)]
    if isinstance(value, dict):
        return {_text(name): _plain(item) for name, item in cast("dict[Any, Any]", value).items()}
    what = repr(value) if isinstance(value, float) else f"a value of type {type(value).__name__!r}"
    raise InvalidRequestError(
        f"The request holds {what} that JSON does not have; give text, lists, dicts, and numbers of up to 64 bits."
    )


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise InvalidRequestError(f"A name in the request is of type {type(name).__name__!r}; in JSON names are text.")
    return name


def _gateway(base_url: str) -> str:
    """The address in the one form that equal gateways share: lower-case host, no usual port, no closing slash."""
    try:
        parts = urlsplit(base_url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    if not host or usual is None:
        raise InvalidRequestError("base_url is not an http:// or https:// address; check the credentials block.")
    return f"{parts.scheme}://{host}{f':{port}' if port not in (None, usual) else ''}{parts.path.rstrip('/')}"
