"""One request on its way: how far it got, and so what it means for the bill that its connection failed.

A gateway that lacks the last byte of a JSON body has no request, so nothing was made and nothing
charged. One that may have the whole body may have made the image, unless HTTP/2 says that it
did not even begin.
"""

import ssl
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager

import httpcore
import httpx

from n1n_prefect import errors
from n1n_prefect.wire.exchange import HttpRequest

_PIECE = 1 << 18  # bytes; HTTP/2 copies what is left of a piece for each frame of 16 KiB
_NOT_REACHED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


class Sending:
    """A request's body in pieces, which knows whether the last one was asked for.

    The last byte is a piece of its own, and httpcore asks for a piece only when it is done with
    those before. What nobody asked for cannot have left by any way: neither from the event loop's
    buffer, which may still be emptied when a write has timed out, nor within another call's write
    on the same HTTP/2 connection. httpcore's trace of `send_request_body` cannot exclude these,
    and speaks of a proxy's CONNECT in the same words.

    That the last byte was handed over does not say that it arrived. A server that closes an idle
    connection just as it is used again never saw the request; nothing on this side tells that from
    a server that took the request whole and then died, so both are unknown outcomes.

    Args:
        request: What is sent.
        timeout_seconds: How long the gateway is waited for, to say so.
    """

    def __init__(self, request: HttpRequest, timeout_seconds: float) -> None:
        self.request = request
        self.timeout_seconds = timeout_seconds
        self._left_whole = not request.body
        self._is_answered = False

    @property
    def content(self) -> "Sending | None":
        """The body for a synchronous client; it can be asked for again, on another connection."""
        return self if self.request.body else None

    @property
    def async_content(self) -> "_AsyncPieces | None":
        """The body for an asynchronous client."""
        return _AsyncPieces(self) if self.request.body else None

    def __iter__(self) -> Iterator[bytes]:
        self._left_whole = False
        body, last = self.request.body, len(self.request.body) - 1
        for start in range(0, last, _PIECE):
            yield body[start : min(start + _PIECE, last)]
        self._left_whole = True
        yield body[last:]

    @contextmanager
    def answered(self, status: int) -> Generator[None]:
        """While the body of a reply arrives: one that refuses is known by its status, even if it breaks off."""
        self._is_answered = True
        try:
            yield
        except httpx.HTTPError:
            if status < 400:
                raise

    def lost(self, exc: Exception) -> errors.N1nError:
        """What it means that the exchange failed once there was a connection."""
        words = _words(exc)
        if not self._left_whole:
            return errors.GatewayError(
                f"The connection failed before the whole request had left ({words}), so nothing was made or charged. "
                f"If it happens again, check the network, and whether {_megabytes(self.request.body)} is more than the "
                "gateway takes."
            )
        if isinstance(exc, httpx.TimeoutException):
            what = f"No whole answer within {self.timeout_seconds:g} s ({type(exc).__name__})"
        else:
            what = f"The connection was lost before a whole answer came ({words})"
        if self.request.method == "GET":
            return errors.GatewayError(f"{what}; nothing was charged. Check the network and the gateway.")
        if _was_refused(exc) and not self._is_answered:
            return errors.GatewayError(f"The gateway did not begin with the request ({words}), so nothing was charged.")
        return errors.OutcomeUnknownError(f"{what}; the image may have been made and billed.")

    def broken(self, exc: Exception) -> errors.N1nError:
        """What it means that HTTP's rules were broken.

        HTTP/1.1 refuses our headers so. HTTP/2 says so of whatever the gateway does wrong, too.
        """
        refused = exc.__cause__.__context__ if exc.__cause__ else None
        if _library(refused) == "h11":
            return errors.InvalidRequestError(
                "The request cannot be written as HTTP, so nothing was sent. Check the key and the headers for "
                "characters that are not allowed there."
            )
        return self.lost(exc)


class _AsyncPieces:
    """The same for an asynchronous client; apart, as httpx takes what has both kinds of iterator for synchronous."""

    def __init__(self, sending: Sending) -> None:
        self._sending = sending

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._sending:
            yield piece


@contextmanager
def translated(sending: Sending) -> Generator[None]:
    """Turns every failure of an exchange into an error of ours; those of the sink pass.

    Raises:
        GatewayError: The gateway has no whole request or did not begin with it, so nothing was charged.
        OutcomeUnknownError: It had, or may have.
        InvalidRequestError: The address is no address, or the request cannot be written as HTTP.
    """
    try:
        yield
    except httpx.LocalProtocolError as exc:
        raise sending.broken(exc) from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as exc:
        raise errors.InvalidRequestError(f"The gateway's address is wrong: {exc}. Check `base_url`.") from _bare(exc)
    except _NOT_REACHED as exc:
        raise errors.GatewayError(
            f"The gateway was not reached ({type(exc).__name__}: {exc}); nothing was sent. "
            "Check `base_url`, the network and the proxy."
        ) from _bare(exc)
    except (httpx.TransportError, httpcore.ConnectionNotAvailable, ssl.SSLError) as exc:
        # The last two come through httpx as they are: a GOAWAY in mid-reply, and what breaks TLS under asyncio.
        raise sending.lost(exc) from _bare(exc)
    except httpx.HTTPError as exc:
        raise errors.MalformedReplyError(
            f"The reply could not be read ({type(exc).__name__}: {exc}); the call may have been charged."
        ) from _bare(exc)
    except Exception as exc:
        if _library(exc) != "h2":
            raise
        raise sending.broken(exc) from None


def _was_refused(exc: Exception) -> bool:
    """Whether HTTP/2 says that nothing was done with the request (RFC 9113, sections 6.8 and 8.7).

    Of a GOAWAY only one that covers no request at all comes this far. If it names another last
    request, httpcore makes those after it again on a new connection, as the RFC allows.
    """
    from h2.errors import ErrorCodes
    from h2.events import ConnectionTerminated, StreamReset

    match exc.__cause__:
        case httpcore.RemoteProtocolError(args=(StreamReset(error_code=code), *_)):
            return code == ErrorCodes.REFUSED_STREAM
        case httpcore.RemoteProtocolError(args=(ConnectionTerminated(last_stream_id=last), *_)):
            return last == 0
        case _:
            return False


def _words(exc: Exception) -> str:
    """The error's name and what it says, but for those that quote headers, and so the key."""
    quotes = isinstance(exc, httpx.LocalProtocolError) or _library(exc) == "h2"
    return type(exc).__name__ if quotes or not str(exc) else f"{type(exc).__name__}: {exc}"


def _library(exc: object) -> str:
    return type(exc).__module__.partition(".")[0]


def _bare(exc: Exception) -> Exception:
    """The exception without its request, which holds the key."""
    if isinstance(exc, httpx.RequestError):
        exc._request = None
    return exc


def _megabytes(body: bytes) -> str:
    return f"{len(body) / 1e6:.1f} MB"
