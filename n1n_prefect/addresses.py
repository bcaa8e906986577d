"""A key, an address and a time to wait: whether they can work, said where they are given.

The messages say "it": whoever asks puts the name of the argument or field before them.
"""

import ipaddress
import re
from urllib.parse import urlsplit

import httpx

from n1n_prefect.masking import without_secrets

MAX_TIMEOUT_SECONDS = 2_147_483
"""24 days, the longest that a socket can wait."""


def checked_api_key(api_key: object) -> str:
    """The key, if it can be one.

    Raises:
        ValueError: It cannot; the message says why and what to do, and never shows it.
    """
    if not isinstance(api_key, str):
        raise ValueError(f"it is of type {type(api_key).__name__}; give the key itself as a str")  # noqa: TRY004
    wrong = next((said for found, said in _WRONG_KEYS if re.match(found, api_key)), "")
    if wrong:
        raise ValueError(wrong)
    return api_key


_WRONG_KEYS = (
    (r"\Z", "it is empty; copy the key from the gateway's console"),
    (r"\*+\Z", "it is only asterisks, which stand for a key that is hidden; give the key itself"),
    (r"\s*[\"'`]", "it stands in quotes; give the key without them"),
    (r"\$|%.*%\Z|\{\{", "it is the name of a variable that nothing put a value for; give the value"),
    (r"(?i)bearer", "it starts with 'Bearer'; give the key alone"),
    (r".*://", "it is an address, which belongs in base_url; give the key"),
    (r"(?s).*[^!-~]", "it has spaces, line breaks or letters that no key has; copy it again, the key alone"),
)


def checked_base_url(base_url: object) -> str:
    """The gateway's address without the version that people paste with it.

    Raises:
        ValueError: It is no address, or the key would travel to it in clear.
    """
    address = checked_address(base_url)
    url = httpx.URL(address)
    if url.scheme == "http" and not is_loopback(url.host):
        raise ValueError(f"http:// would send the key in clear to {url.host!r}; write https://")
    return address.removesuffix("/v1beta").removesuffix("/v1").rstrip("/")


def checked_address(address: object) -> str:
    """An http or https address without a trailing slash, query or credentials.

    Raises:
        ValueError: It is none, or its host cannot be looked up.
    """
    if not isinstance(address, str):
        raise ValueError(f"it is of type {type(address).__name__}; write https://host")  # noqa: TRY004
    bare = address.strip().rstrip("/")
    if "@" in bare:
        raise ValueError("it has credentials in it; they belong in their own fields")
    if "?" in bare or "#" in bare:
        raise ValueError("it has a query or fragment; write the address alone")
    url = _parsed(bare)
    if url.scheme not in ("http", "https") or not url.host or re.search(r"[\s\\]", bare):
        raise ValueError(f"{shown(bare)} is no address; write https://host")
    _check_host(url)
    return bare


def _parsed(address: str) -> httpx.URL:
    try:
        _ = urlsplit(address).port  # refuses those over 65,535, which httpx does not
        return httpx.URL(address)
    except (httpx.InvalidURL, ValueError) as exc:  # a UnicodeError is a ValueError
        raise ValueError(f"{shown(address)} is no address ({type(exc).__name__}); write https://host") from None


def _check_host(url: httpx.URL) -> None:
    try:
        # As the socket will: empty labels and those over 63 characters have no encoding.
        encoded = url.raw_host.decode().encode("idna")
    except UnicodeError:
        encoded = b""
    if not 0 < len(encoded) <= 253:
        raise ValueError(f"{shown(url.host)} is no host that can be looked up; write https://host")


def shown(value: object) -> str:
    """A value as an error may repeat it: at most 80 characters, and nothing that looks like a key."""
    text = repr(without_secrets(value) if isinstance(value, str) else value)
    text = without_secrets(text)
    return text if len(text) <= 80 else f"{text[:79]}…"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_timeout(seconds: object) -> float:
    """The seconds, if one can wait that long.

    Raises:
        ValueError: They are no number, not more than 0, or over 24 days.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        raise ValueError(
            f"{shown(seconds)} is no time to wait; give seconds, more than 0 and at most {MAX_TIMEOUT_SECONDS}"
        )
    return seconds
