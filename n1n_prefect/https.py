"""What a public https address answers, without letting the address choose what we connect to.

Addresses come from deployments' parameters and from gateways' replies, so they are taken
for hostile. A host is resolved once, every address of it must be public, and the
connection goes to one of those very addresses, with the certificate checked against the
host's name; each redirect goes through the same gate. One deadline covers everything but
the system's own name resolution, and nothing is ever decompressed. Proxies from the
environment are not used: they would resolve the host again, out of our sight.
"""

import contextlib
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Generator, Sequence
from functools import cache
from io import BytesIO
from typing import Any

import httpcore
import httpx
from pydantic import Field
from pydantic.dataclasses import dataclass

from n1n_prefect import __about__
from n1n_prefect.errors import SourceError
from n1n_prefect.images import excerpt
from n1n_prefect.masking import without_secrets

Resolve = Callable[[str, int], Sequence[str]]
"""Takes a host and a port, gives the host's addresses as text."""

_REDIRECTS = (301, 302, 303, 307, 308)
_TRANSIENT = (408, 425, 429)


@dataclass(frozen=True)
class Limits:
    """How much one fetch may take."""

    max_bytes: int = Field(default=50 * 1024**2, gt=0)
    """Longest body that is read, in bytes, inclusive."""

    timeout_seconds: float = Field(default=30, gt=0, allow_inf_nan=False)
    """Seconds for the whole fetch, redirects included; the system's name resolution has its own limit."""

    max_redirects: int = Field(default=3, ge=0)
    """How many redirects are followed."""


# ── which addresses are public ───────────────────────────────────────────────

# Wider than `is_global`, whose tables differ between Python's releases: metadata services
# (192.0.0.192, 168.63.129.16), relays to IPv4 (6to4, Teredo), documentation.
_NEVER = tuple(
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "2001::/23", "2002::/16", "3fff::/20")
)
_UNICAST_6 = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet; an IPv4 address inside an IPv6 one counts as itself."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if embedded is None and ip not in _UNICAST_6:
            return False
        ip = embedded or ip
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NEVER)


def resolve_host(host: str, port: int) -> Sequence[str]:
    """The addresses that the system's resolver gives for a host, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _public_addresses(host: str, port: int, resolve: Resolve) -> Sequence[str]:
    try:
        addresses = resolve(host, port)
    except (OSError, UnicodeError) as exc:
        again = isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_AGAIN
        raise SourceError(f"The host {host!r:.100} was not found; check the address.", is_transient=again) from None
    private = [address for address in addresses if not is_public(address)]
    if private or not addresses:
        raise SourceError(
            f"The host {host!r:.100} stands for {', '.join(private) or 'no address'}, which is not on the public "
            "internet, so it is not read. Give the file, or its S3 location, instead."
        )
    return addresses


# ── a connection that goes nowhere else and ends in time ─────────────────────


class _Deadline:
    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left


class _TimedStream(httpcore.NetworkStream):
    """Gives every operation what is left of the whole time, so that a slow drip ends too."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - ours is shorter
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - ours is shorter
        self._stream.write(buffer, self._deadline.left())

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 - ours is shorter
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left())
        return _TimedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def close(self) -> None:
        self._stream.close()


class _PublicBackend(httpcore.NetworkBackend):
    """Connects to the addresses that were checked, never to a name."""

    def __init__(self, backend: httpcore.NetworkBackend, resolve: Resolve, deadline: _Deadline) -> None:
        self._backend = backend
        self._resolve = resolve
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - ours is shorter
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        addresses = list(_public_addresses(host, port, self._resolve))
        while True:
            # A share each, so that one that swallows packets leaves time for the next.
            share = self._deadline.left() / len(addresses)
            try:
                stream = self._backend.connect_tcp(addresses.pop(0), port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not addresses:
                    raise
            else:
                return _TimedStream(stream, self._deadline)


# ── the fetch ────────────────────────────────────────────────────────────────


def fetch_https(
    url: str,
    rules: Limits | None = None,
    *,
    resolve: Resolve = resolve_host,
    network_backend: httpcore.NetworkBackend | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> bytes:
    """The body that a public https address answers with, as sent.

    Port 443 is allowed, and any from 1024 that the address names. Credentials in the
    address are refused, cookies are not kept.

    Args:
        url: The address.
        rules: How many bytes, seconds and redirects it may take.
        resolve: How a host's addresses are found.
        network_backend: What makes the connections.
        ssl_context: Whom to trust; by default certifi's list, or the environment's `SSL_CERT_FILE`.

    Raises:
        SourceError: The address is not public, not https, too large, too slow, or does not
            answer 200; `is_transient` where it may later.
    """
    rules = rules or Limits()
    deadline = _Deadline(rules.timeout_seconds)
    backend = _PublicBackend(network_backend or httpcore.SyncBackend(), resolve, deadline)
    target = _checked(url)
    with httpcore.ConnectionPool(ssl_context=ssl_context or _ssl_context(), network_backend=backend) as pool:
        for _ in range(rules.max_redirects + 1):
            with _translated(target, rules.timeout_seconds), _get(pool, target) as response:
                if response.status not in _REDIRECTS:
                    return _body(response, _shown(target), rules.max_bytes)
                target = _checked(_header(response, b"location"), target)
    raise SourceError(f"{shown(url)} redirects more than {rules.max_redirects} times; give the final address.")


def shown(url: str) -> str:
    """An address as messages and labels show it: without credentials, query and fragment."""
    try:
        return _shown(httpx.URL(url))
    except (httpx.InvalidURL, ValueError):
        return "https://…"


@cache
def _ssl_context() -> ssl.SSLContext:
    # Not shared with the gateway's client: the pool sets the protocols it offers on it.
    return httpx.create_ssl_context()


def _shown(url: httpx.URL) -> str:
    path = url.raw_path.partition(b"?")[0]
    return excerpt(without_secrets(f"{url.scheme}://{(url.netloc + path).decode('ascii')}"), 200)


def _checked(text: str, base: httpx.URL | None = None) -> httpx.URL:
    try:
        url = base.join(text) if base else httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        # The reason could quote a password.
        raise SourceError(
            f"{_shown(base)} redirects to something that is no address."
            if base
            else "An https:// address is not well-formed; check its host, port and characters."
        ) from None
    where = f"{_shown(base)} redirects to {_shown(url)}, which" if base else _shown(url)
    if url.scheme != "https" or not url.host:
        raise SourceError(f"{where} is not an https:// address; only those are read.")
    if url.userinfo:
        raise SourceError(f"{where} holds a user name or password; give an address that needs none.")
    if not (url.port in (None, 443) or 1024 <= url.port <= 65535):
        raise SourceError(f"{where} names port {url.port}; only 443 and those from 1024 are read.")
    return url


def _get(pool: httpcore.ConnectionPool, url: httpx.URL) -> contextlib.AbstractContextManager[httpcore.Response]:
    headers: dict[bytes | str, bytes | str] = {
        "Host": url.netloc.decode("ascii"),
        "User-Agent": f"n1n-prefect/{__about__.__version__}",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    target = httpcore.URL(scheme=b"https", host=url.raw_host, port=url.port, target=url.raw_path)
    return pool.stream("GET", target, headers=headers)


def _header(response: httpcore.Response, name: bytes) -> str:
    found = next((value for key, value in response.headers if key.lower() == name), b"")
    return found.decode("utf-8", "replace")


def _body(response: httpcore.Response, name: str, max_bytes: int) -> bytes:
    if response.status != 200:
        raise SourceError(
            f"{name} answered HTTP {response.status}; it must answer 200 to anyone, without a login.",
            status_code=response.status,
            is_transient=response.status >= 500 or response.status in _TRANSIENT,
        )
    length = _header(response, b"content-length")
    body = BytesIO()
    if not length.isdecimal() or int(length) <= max_bytes:
        for chunk in response.iter_stream():
            body.write(chunk)
            if body.tell() > max_bytes:
                break
        else:
            return body.getvalue()
    raise SourceError(f"{name} has more than {max_bytes} bytes, the most that is read.")


@contextlib.contextmanager
def _translated(url: httpx.URL, seconds: float) -> Generator[None, None, None]:
    name = _shown(url)
    try:
        yield
    except httpcore.TimeoutException:
        raise SourceError(f"{name} did not arrive whole within {seconds:g} s.", is_transient=True) from None
    except httpcore.ConnectError as exc:
        if any(isinstance(reason, ssl.SSLCertVerificationError) for reason in exc.args):
            raise SourceError(f"{name} has no valid certificate: {exc}.") from None
        raise SourceError(
            f"{name} was not reached: {exc}. (A proxy from the environment is not used here.)",
            is_transient=True,
        ) from None
    except (httpcore.NetworkError, httpcore.ProtocolError) as exc:
        raise SourceError(f"{name} broke off its answer ({type(exc).__name__}).", is_transient=True) from None
