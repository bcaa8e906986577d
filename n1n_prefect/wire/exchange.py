"""What every wire format speaks in: one HTTP request out, one reply in."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from n1n_prefect.images import Usage
from n1n_prefect.masking import without_secrets


@dataclass(frozen=True)
class HttpRequest:
    """An HTTP request without an address or a key; the client adds both."""

    method: str
    """`GET` or `POST`."""

    path: str
    """Path and query below the gateway's address, starting with a slash."""

    headers: Mapping[str, str]
    """Headers but for `Authorization`."""

    body: bytes = field(default=b"", repr=False)
    """JSON, or empty."""


@dataclass(frozen=True)
class Reply:
    """An answer that holds an image, either as bytes or as an address to fetch it from."""

    data: bytes = field(default=b"", repr=False)
    """The image's bytes as sent, or empty where the gateway gave an address."""

    url: str = ""
    """Where the image is, if the gateway sent no bytes."""

    text: str = ""
    """What the model wrote beside the image, whole."""

    finish_reason: str = ""
    """Why the model stopped, as sent."""

    usage: Usage = field(default_factory=Usage)
    """Tokens by kind; all zero where none were reported."""

    model_version: str = ""
    """The model that answered, where the gateway says so."""

    response_id: str = ""
    """The model's id for its answer."""

    request_id: str = ""
    """The gateway's id for the call."""


def masked_reply(reply: Reply, *secrets: str) -> Reply:
    """The reply, with the secrets masked in its words and ids should a gateway have echoed them."""
    names = ("text", "finish_reason", "model_version", "response_id", "request_id")
    return replace(reply, **{name: without_secrets(getattr(reply, name), *secrets) for name in names})


def request_id_of(headers: Mapping[str, str]) -> str:
    """The gateway's id for a call, from the first header that holds one; header names in lower case."""
    names = ("x-oneapi-request-id", "x-request-id", "request-id", "cf-ray")
    return next((headers[name] for name in names if headers.get(name)), "")
