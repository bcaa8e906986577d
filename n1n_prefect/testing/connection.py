"""The HTTP connection itself: reading requests whole, sending answers whole or deliberately not."""

import secrets
import socket
import socketserver
import struct
import threading
import zlib
from collections.abc import Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, urlsplit

from n1n_prefect import catalog
from n1n_prefect.testing import routes
from n1n_prefect.testing.exchange import Answer, Heard
from n1n_prefect.testing.ledger import Call

if TYPE_CHECKING:
    from n1n_prefect.testing.gateway import LocalGateway

_DRAINED_BYTES = 256 * 1024**2  # more than this of a refused body is not read, and the connection ends
_DRIPS = 20


class Server(ThreadingHTTPServer):
    """A loopback server that knows its open connections, so that it can end them."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, port: int, gateway: "LocalGateway") -> None:
        self.gateway = gateway
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__(("127.0.0.1", port), Connection)

    def server_bind(self) -> None:
        """Binds without the reverse look-up of the host's name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Notes the connection and serves it in a thread of its own."""
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends one connection."""
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def end_connections(self) -> None:
        """Ends every open connection and waits for the threads that serve them, for 5 seconds at most."""
        with self._changed:
            for connection in self._open:
                _shut(connection)
            self._changed.wait_for(lambda: not self._open, timeout=5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints an error of the gateway's own; a caller that went away is none."""
        import sys

        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Connection(BaseHTTPRequestHandler):
    """One connection, kept alive between requests."""

    protocol_version = "HTTP/1.1"
    server_version = "n1n-local-gateway"
    sys_version = ""
    disable_nagle_algorithm = True

    @property
    def _gateway(self) -> "LocalGateway":
        return cast("Server", self.server).gateway

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
        """Stays silent: calls are reported through the ledger."""

    def _respond(self) -> None:
        heard = self._head()
        gateway = self._gateway
        if routes.paid_model(heard) is not None and self._closed_unread(heard):
            return
        try:
            self._read_body(heard)
        except (ConnectionError, ValueError):  # gone in the middle, or its lengths are no numbers
            self.close_connection = True
            return
        answer = routes.answer(gateway, heard)
        answer.headers["X-Oneapi-Request-Id"] = heard.request_id
        if not self._send(answer) and answer.call and answer.whole:
            answer.call = gateway.ledger.cut_off(answer.call)
        if answer.call:
            gateway.report(answer.call)

    do_GET = do_POST = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _respond  # noqa: N815  # the base class's names

    def _head(self) -> Heard:
        address = urlsplit(self.path)
        stamp = datetime.now(timezone.utc).strftime("%Y%m%d%H%M%S%f")
        return Heard(
            method=self.command,
            path=address.path,
            query=dict(parse_qsl(address.query)),
            headers={name.lower(): value for name, value in self.headers.items()},
            request_id=stamp + secrets.token_hex(4),
        )

    def _closed_unread(self, heard: Heard) -> bool:
        """Closes the connection without reading further, if a scripted fault says so."""
        ledger = self._gateway.ledger
        faults = self._gateway.faults.take_unread()
        if not faults:
            return False
        with ledger.arrival() as number:
            call = Call(
                number=number,
                at=datetime.now(timezone.utc),
                model=routes.paid_model(heard) or "",
                request_id=heard.request_id,
                status=0,
                outcome="error",
                delivered=False,
                fault=faults[0].kind.name,
            )
            ledger.write(call)
        self._gateway.report(call)
        self.close_connection = True
        return True

    def _read_body(self, heard: Heard) -> None:
        """Reads the body, decompressed, and stops keeping it where it passes the cap.

        Raises:
            ConnectionError: The caller went away in the middle.
        """
        body = bytearray()
        unzip = zlib.decompressobj(zlib.MAX_WBITS | 16) if heard.headers.get("content-encoding") == "gzip" else None
        total = 0
        for piece in self._pieces(heard):
            total += len(piece)
            if total > _DRAINED_BYTES:
                self.close_connection = True
                break
            if not heard.too_large:
                body += _unzipped(unzip, piece)
                heard.too_large = len(body) > catalog.MAX_BODY_BYTES
        heard.body = b"" if heard.too_large else bytes(body)

    def _pieces(self, heard: Heard) -> Iterator[bytes]:
        if "chunked" in heard.headers.get("transfer-encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                yield self._exactly(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(heard.headers.get("content-length", "0") or 0)
        while left > 0:
            piece = self._exactly(min(left, 1 << 20))
            left -= len(piece)
            yield piece

    def _exactly(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionResetError("the caller closed the connection before the body was whole")
        return data

    def _send(self, answer: Answer) -> bool:
        """Sends the answer; whether all that was meant to leave did."""
        gone = False
        try:
            if answer.wait_seconds:
                self._gateway.pause(answer.wait_seconds)
            gone = self._caller_is_gone()
            if not answer.silent:
                self._send_head(answer)
                if self.command != "HEAD":
                    self._send_body(answer)
        except OSError:
            gone = True
        if gone or answer.ending != "keep":
            self.close_connection = True
        if answer.ending == "reset":
            # Closing with a linger time of zero makes the kernel send RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        return not gone

    def _send_head(self, answer: Answer) -> None:
        self.send_response(answer.status, None if answer.status in self.responses else "Unknown")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(sum(len(piece) for piece in answer.pieces)))
        self.end_headers()

    def _send_body(self, answer: Answer) -> None:
        framed = _chunks(answer.pieces) if answer.chunked else answer.pieces
        if answer.sent_share < 1:
            whole = b"".join(framed)
            framed = [whole[: int(len(whole) * answer.sent_share)]]
        if not answer.drip_seconds:
            for piece in framed:
                self.wfile.write(piece)
            return
        whole = b"".join(framed)
        step = len(whole) // _DRIPS + 1
        for start in range(0, len(whole), step):
            self.wfile.write(whole[start : start + step])
            self._gateway.pause(answer.drip_seconds / _DRIPS)

    def _caller_is_gone(self) -> bool:
        """Whether the caller hung up while we worked; a send into its empty chair would still succeed once."""
        self.connection.setblocking(False)
        try:
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.connection.setblocking(True)


def _unzipped(unzip: Any, piece: bytes) -> bytes:
    if unzip is None:
        return piece
    try:
        return unzip.decompress(piece, catalog.MAX_BODY_BYTES + 1)
    except zlib.error:
        return b""  # not gzip after all: what remains is no JSON


def _chunks(pieces: list[bytes]) -> list[bytes]:
    return [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece] + [b"0\r\n\r\n"]


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended by itself
