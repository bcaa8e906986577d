"""Sends requests to the gateway and says what happened to them, and nothing more.

There are no retries here: the orchestrator decides whether a paid call is made again.
Every decision stands once, in plain functions; the two clients differ in `await` alone.
"""

import asyncio
import ssl
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from typing import Any, Protocol

import httpx
import orjson

from n1n_prefect import __about__, errors
from n1n_prefect.addresses import checked_api_key, checked_base_url, checked_timeout
from n1n_prefect.https import fetch_https
from n1n_prefect.images import ImageRequest, ImageSource, as_request
from n1n_prefect.log_guard import guard_logs
from n1n_prefect.masking import remember_secret
from n1n_prefect.sending import Sending, translated
from n1n_prefect.sources import LoadedRequest, as_sources, load_request
from n1n_prefect.wire import billing, failure, gemini
from n1n_prefect.wire.billing import Balance
from n1n_prefect.wire.exchange import HttpRequest, Reply, masked_reply, request_id_of

DEFAULT_BASE_URL = "https://api.n1n.ai"
DEFAULT_TIMEOUT_SECONDS = 300.0
CONNECT_TIMEOUT_SECONDS = 15.0
BODY_SECONDS = 120.0
"""What a body that has begun to arrive may take beyond the timeout: by then the image is paid for."""


class Sink(Protocol):
    """Where the body of a reply goes as it arrives."""

    def write(self, data: bytes, /) -> object:
        """Takes the next bytes."""
        ...


@dataclass(frozen=True)
class ReplyHead:
    """Status and headers of a reply whose body went into a sink."""

    status: int
    """HTTP status."""

    headers: Mapping[str, str]
    """Names in lower case; nothing of the request."""


@contextmanager
def _named(name: str) -> Generator[None]:
    """Turns what a check says about "it" into an error that names the argument."""
    try:
        yield
    except ValueError as exc:
        raise errors.InvalidRequestError(f"{name}: {exc}.") from None


# ── decisions, made once ─────────────────────────────────────────────────────


@cache
def _ssl_context() -> ssl.SSLContext:
    # One a process: building one costs 30 to 50 ms.
    return httpx.create_ssl_context()


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(CONNECT_TIMEOUT_SECONDS, seconds))


def _options(transport: Any, http2: bool) -> dict[str, Any]:
    if transport is not None:
        return {"transport": transport}
    # One that the server has closed is noticed before it is used again, but not one that it closes just
    # then, so idle connections are dropped sooner than servers drop them.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=5.0)
    return {"verify": _ssl_context(), "http2": http2, "limits": limits}


@contextmanager
def _usable_proxies() -> Generator[None]:
    try:
        yield
    except (httpx.InvalidURL, ValueError, ImportError) as exc:  # their words may hold the proxy's password
        raise errors.InvalidRequestError(
            f"The environment's proxies cannot be used ({type(exc).__name__}). Check HTTPS_PROXY, HTTP_PROXY and "
            "ALL_PROXY: they are http:// addresses; socks5:// needs the package socksio."
        ) from None


def _headers(request: HttpRequest, api_key: str) -> dict[str, str]:
    length = {"content-length": str(len(request.body))} if request.body else {}
    return {
        "user-agent": f"n1n-prefect/{__about__.__version__}",
        **request.headers,
        **length,
        "authorization": f"Bearer {api_key}",
    }


def _head_of(response: httpx.Response) -> ReplyHead:
    return ReplyHead(response.status_code, dict(response.headers))


class _Patience:
    """How long a body may take, from the head on; what has arrived late is taken, and no more is waited for."""

    def __init__(self) -> None:
        self._until = time.monotonic() + BODY_SECONDS
        self._is_late = False

    def take(self, chunk: bytes, sink: Sink) -> None:
        if self._is_late:
            raise errors.OutcomeUnknownError(
                f"The reply's body was still arriving after {BODY_SECONDS:g} s; the image was probably made and billed."
            )
        sink.write(chunk)
        self._is_late = time.monotonic() > self._until


def _model_ids(head: ReplyHead, body: bytes) -> list[str]:
    """Ids from Gemini's or OpenAI's form of the list, sorted."""
    if head.status == 404:
        raise errors.InvalidRequestError(
            "There is no list of models at this address (HTTP 404), so it is no gateway's. Check `base_url`.",
            request_id_of(head.headers),
            status_code=404,
        )
    if not 200 <= head.status < 300:
        raise failure.error_from(head.status, head.headers, body)
    try:
        document = orjson.loads(body)
        items = document.get("models") or document.get("data") or []
        return sorted({str(item.get("name") or item["id"]).removeprefix("models/") for item in items})
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        raise errors.MalformedReplyError(
            "The list of models could not be read. Check that `base_url` is a gateway's.",
            request_id_of(head.headers),
            charged="no",
        ) from None


def _answer_about_money(head: ReplyHead, body: bytes) -> bytes:
    """The body of an answer; empty where the gateway has no such page, or shows it to no key."""
    if head.status in (400, 403, 404, 405, 501):
        return b""
    if not 200 <= head.status < 300:
        raise failure.error_from(head.status, head.headers, body)
    return body


_MODEL_LISTS = ("/v1beta/models?pageSize=1000", "/v1/models")
_NO_SUCH_LIST = (errors.ModelNotAvailableError, errors.InvalidRequestError, errors.MalformedReplyError)


def _asking(path: str) -> HttpRequest:
    return HttpRequest("GET", path, {"accept": "application/json"})


# ── the two clients ──────────────────────────────────────────────────────────


class _Common:
    def __init__(
        self,
        api_key: str,
        base_url: str = DEFAULT_BASE_URL,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        transport: Any = None,
        http2: bool = False,
    ) -> None:
        with _named("api_key"):
            self._api_key = checked_api_key(api_key)
        with _named("base_url"):
            self.base_url = checked_base_url(base_url)
        with _named("timeout_seconds"):
            self.timeout_seconds = checked_timeout(timeout_seconds)
        with _usable_proxies():
            self._http = self._connect(
                base_url=self.base_url, timeout=_timeout(timeout_seconds), **_options(transport, http2)
            )
        remember_secret(self._api_key)
        guard_logs()

    def _connect(self, **options: Any) -> Any:
        raise NotImplementedError

    def _arguments(self, request: HttpRequest) -> dict[str, Any]:
        if self._http.is_closed:
            raise errors.InvalidRequestError(f"{self!r} is closed; make a new one.")
        return {"method": request.method, "url": request.path, "headers": _headers(request, self._api_key)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"


class N1nClient(_Common):
    """Calls the gateway from synchronous code; usable without a flow.

    ```python
    with N1nClient(api_key="sk-…") as client:
        reply = client.generate("A red fox in the snow", aspect_ratio="16:9")
    Path("fox.png").write_bytes(reply.data)
    ```

    Connections are pooled; the client may be shared by threads. Proxies come from the
    environment as httpx reads it (`HTTPS_PROXY`, `NO_PROXY`).

    Args:
        api_key: The gateway's key.
        base_url: The gateway's address, with or without `/v1` or `/v1beta`.
        timeout_seconds: For the reply to begin; connecting has 15 s of its own, an arriving body 120 s more.
        transport: An httpx transport in place of the network.
        http2: Whether HTTP/2 is offered. Calls then share a connection, and httpx loses them together: the read
            timeout of one, or a server's orderly farewell, ends all that are under way. A refusal that comes before
            a large body has left is not seen, and 16 MB of replies to cancelled calls stall the connection.

    Raises:
        InvalidRequestError: An argument is not usable, or, on a call, the client is closed.
    """

    _http: httpx.Client

    def _connect(self, **options: Any) -> httpx.Client:
        return httpx.Client(**options)

    def send(self, request: HttpRequest, sink: Sink) -> ReplyHead:
        """Sends once and writes the body into the sink as it arrives.

        Nothing is sent again, but what HTTP/2 says was not begun with. An answer that refuses counts
        even if it broke off or came before the whole request had left.

        Raises:
            GatewayError: The gateway was not reached, or certainly has no whole request; nothing was charged.
            OutcomeUnknownError: It may have the whole request, and no whole answer came.
        """
        sending = Sending(request, self.timeout_seconds)
        with (
            translated(sending),
            self._http.stream(**self._arguments(request), content=sending.content) as response,
        ):
            patience = _Patience()
            with sending.answered(response.status_code):
                for chunk in response.iter_bytes():
                    patience.take(chunk, sink)
            return _head_of(response)

    def generate(self, prompt: str | ImageRequest, images: Sequence[ImageSource] = (), **options: Any) -> Reply:
        """One image in one paid call, without a journal: a repeated call pays again.

        Args:
            prompt: What to draw, or a whole `ImageRequest`.
            images: Input images for an edit.
            options: Fields of `ImageRequest`, such as `model` and `aspect_ratio`.

        Raises:
            N1nError: In its class; see the tree in `n1n_prefect.errors`.
        """
        loaded = _loaded(prompt, images, options)
        body = BytesIO()
        head = self.send(gemini.build(loaded), body)
        try:
            reply = gemini.read_reply(head.status, head.headers, body.getvalue())
            return _with_bytes(masked_reply(reply, self._api_key))
        except errors.N1nError as error:
            raise errors.masked(error, self._api_key) from None

    def models(self) -> list[str]:
        """Ids of the models that this key serves, sorted; from `/v1beta/models`, else `/v1/models`.

        Raises:
            AuthenticationError: The key is not accepted.
            InvalidRequestError: The address is no gateway's.
            GatewayError: The gateway was not reached or failed.
        """
        try:
            return self._models_at(_MODEL_LISTS[0])
        except _NO_SUCH_LIST:
            return self._models_at(_MODEL_LISTS[1])

    def balance(self) -> Balance | None:
        """What this key may still spend, or None where the gateway does not tell; costs nothing.

        Raises:
            AuthenticationError: The key is not accepted.
            GatewayError: The gateway was not reached or failed.
        """
        return billing.found(*(self._told(path) for path in billing.PATHS))

    def _told(self, path: str) -> bytes:
        body = BytesIO()
        try:
            head = self.send(_asking(path), body)
            return _answer_about_money(head, body.getvalue())
        except errors.N1nError as error:
            raise errors.masked(error, self._api_key) from None

    def _models_at(self, path: str) -> list[str]:
        body = BytesIO()
        try:
            return _model_ids(self.send(_asking(path), body), body.getvalue())
        except errors.N1nError as error:
            raise errors.masked(error, self._api_key) from None

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> "N1nClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncN1nClient(_Common):
    """`N1nClient` for asynchronous code; belongs to the event loop that it is first used in."""

    _http: httpx.AsyncClient

    def _connect(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(**options)

    async def send(self, request: HttpRequest, sink: Sink) -> ReplyHead:
        """`N1nClient.send`."""
        sending = Sending(request, self.timeout_seconds)
        with translated(sending):
            async with self._http.stream(**self._arguments(request), content=sending.async_content) as response:
                patience = _Patience()
                with sending.answered(response.status_code):
                    async for chunk in response.aiter_bytes():
                        patience.take(chunk, sink)
                return _head_of(response)

    async def generate(self, prompt: str | ImageRequest, images: Sequence[ImageSource] = (), **options: Any) -> Reply:
        """`N1nClient.generate`."""
        loaded = await asyncio.to_thread(_loaded, prompt, images, options)
        body = BytesIO()
        head = await self.send(gemini.build(loaded), body)
        try:
            reply = gemini.read_reply(head.status, head.headers, body.getvalue())
            return await asyncio.to_thread(_with_bytes, masked_reply(reply, self._api_key))
        except errors.N1nError as error:
            raise errors.masked(error, self._api_key) from None

    async def models(self) -> list[str]:
        """`N1nClient.models`."""
        try:
            return await self._models_at(_MODEL_LISTS[0])
        except _NO_SUCH_LIST:
            return await self._models_at(_MODEL_LISTS[1])

    async def balance(self) -> Balance | None:
        """`N1nClient.balance`."""
        return billing.found(*[await self._told(path) for path in billing.PATHS])

    async def _told(self, path: str) -> bytes:
        body = BytesIO()
        try:
            head = await self.send(_asking(path), body)
            return _answer_about_money(head, body.getvalue())
        except errors.N1nError as error:
            raise errors.masked(error, self._api_key) from None

    async def _models_at(self, path: str) -> list[str]:
        body = BytesIO()
        try:
            return _model_ids(await self.send(_asking(path), body), body.getvalue())
        except errors.N1nError as error:
            raise errors.masked(error, self._api_key) from None

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncN1nClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _loaded(prompt: str | ImageRequest, images: Sequence[ImageSource], options: dict[str, Any]) -> LoadedRequest:
    loaded = load_request(as_request(prompt, as_sources(images), **options))
    gemini.check(loaded)
    return loaded


def _with_bytes(reply: Reply) -> Reply:
    """The reply with its image fetched, where the gateway gave an address instead."""
    return reply if reply.data else replace(reply, data=fetch_https(reply.url))
