"""Servers that treat a connection as no decent server does, byte by byte, and what clients make of them.

A server follows a script for each connection, the last one for all further connections, and
counts the requests that reached it whole.
"""

import asyncio
import datetime
import ipaddress
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import httpx
import hyperframe.frame
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded

from n1n_prefect.client import AsyncN1nClient, N1nClient
from n1n_prefect.errors import N1nError
from n1n_prefect.wire.exchange import HttpRequest

KEY = "secret-key-without-a-prefix"
SMALL = HttpRequest("POST", "/v1beta/models/m:generateContent", {"content-type": "application/json"}, b'{"a": 1}')
LARGE = HttpRequest("POST", SMALL.path, SMALL.headers, b'{"a": "' + b"x" * 24_000_000 + b'"}')
"""More than the buffers of two sockets take."""


# ── the servers ──────────────────────────────────────────────────────────────


class Server:
    """Listens on loopback and serves each connection in a thread of its own."""

    def __init__(self, *scripts: "Callable[[Line], None] | Callable[[H2Line], None]", tls: ssl.SSLContext | None):
        self.whole: list[bytes] = []
        self.connections = 0
        self.over = threading.Event()
        self._reached, self._closed = threading.Semaphore(0), threading.Semaphore(0)
        self._scripts, self._tls = scripts, tls
        self._threads: list[threading.Thread] = []
        self._last: tuple[str, int] | None = None
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *args: object) -> None:
        self._threads.append(threading.Thread(target=work, args=args))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            connection, peer = self._listener.accept()
            if peer == self._last:  # all that came before it have been counted
                connection.close()
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            self._start(self._serve, script, connection)

    def _serve(self, script: Callable[..., None], connection: socket.socket) -> None:
        connection.settimeout(60)
        with suppress(OSError), connection:
            spoken = self._tls.wrap_socket(connection, server_side=True) if self._tls else connection
            with spoken:
                kind = H2Line if script.__annotations__.get("line") is H2Line else Line
                script(kind(self, spoken))
        self._closed.release()

    def reached(self) -> None:
        """Waits until a script says that it has come to the place in question."""
        assert self._reached.acquire(timeout=60)

    def closed(self) -> None:
        """Waits until the server has closed one more connection."""
        assert self._closed.acquire(timeout=60)

    def close(self) -> None:
        self.over.set()
        with socket.socket() as last:
            last.bind(("127.0.0.1", 0))
            self._last = last.getsockname()
            last.connect(("127.0.0.1", self.port))
        for thread in self._threads:
            thread.join(60)
        self._listener.close()


@contextmanager
def serving(*scripts: Callable[..., None], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server with a script for each connection."""
    server = Server(*scripts, tls=tls)
    try:
        yield server
    finally:
        server.close()


class _Connection:
    """What every script may do, whatever is spoken."""

    def __init__(self, server: Server, connection: socket.socket) -> None:
        self.server, self.connection = server, connection

    def here(self) -> None:
        """Lets `Server.reached` return."""
        self.server._reached.release()

    def drain(self) -> None:
        """Reads on until the client hangs up."""
        while self.connection.recv(1 << 20):
            pass

    def hold(self) -> None:
        """Keeps the connection open, reading nothing, until the test is over."""
        self.server.over.wait(60)

    def reset(self) -> None:
        """Ends the connection with RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class Line(_Connection):
    """One connection that speaks HTTP/1.1."""

    _received = b""

    def head(self) -> bytes:
        """The next request's head alone, empty once the client hung up."""
        while b"\r\n\r\n" not in self._received:
            if not self._receive():
                return b""
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        return head

    def request(self) -> bytes:
        """The next request whole, which is counted, or nothing once the client hung up."""
        head = self.head().lower()
        _, found, rest = head.partition(b"content-length: ")
        length = int(rest.split()[0]) if found else 0
        while len(self._received) < length:
            if not self._receive():
                return b""
        body, self._received = self._received[:length], self._received[length:]
        if head:
            self.server.whole.append(body)
        return head

    def _receive(self) -> bytes:
        data = self.connection.recv(1 << 20)
        self._received += data
        return data

    def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.connection.sendall(piece)

    def answer(self, body: bytes = b"ok", status: int = 200, *headers: str) -> None:
        lines = (f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers)
        self.say("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


class H2Line(_Connection):
    """One connection that speaks HTTP/2 from its first byte."""

    def __init__(self, server: Server, connection: socket.socket) -> None:
        super().__init__(server, connection)
        self.http = H2Connection(H2Configuration(client_side=False))
        self.http.initiate_connection()
        self._flush()
        self._pending: list[object] = []

    def _flush(self) -> None:
        self.connection.sendall(self.http.data_to_send())

    def _next(self, kind: type, *, reading: bool = True) -> int:
        """The stream of the next event of a kind, 0 once the client hung up."""
        while True:
            while self._pending:
                event = self._pending.pop(0)
                if isinstance(event, DataReceived) and reading:
                    self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    self._flush()
                if isinstance(event, kind):
                    return event.stream_id
            data = self.connection.recv(1 << 20)
            if not data:
                return 0
            self._pending += self.http.receive_data(data)
            self._flush()

    def head(self) -> int:
        """The stream of the next request, of which no more is taken than the first window of 64 KiB."""
        return self._next(RequestReceived, reading=False)

    def request(self) -> int:
        """The stream of the next whole request, which is counted; 0 once the client hung up."""
        stream = self._next(StreamEnded)
        if stream:
            self.server.whole.append(b"")
        return stream

    def answer(self, stream: int, body: bytes = b"ok", status: int = 200, *, end: bool = True) -> None:
        """At most what the first window takes."""
        self.http.send_headers(stream, [(":status", str(status))])
        self.http.send_data(stream, body, end_stream=end)
        self._flush()

    def refuse(self, stream: int, code: int) -> None:
        self.http.reset_stream(stream, code)
        self._flush()

    def go_away(self, last: int) -> None:
        """Says which request is the last; past h2's own state, which a decent server would not leave behind."""
        self.connection.sendall(hyperframe.frame.GoAwayFrame(0, last_stream_id=last).serialize())


def certified(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A context for a server on 127.0.0.1, and one for clients that trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(1))
    certificate = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
    serves = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serves.load_cert_chain(folder / "both.pem")
    return serves, ssl.create_default_context(cafile=str(folder / "both.pem"))


# ── the clients ──────────────────────────────────────────────────────────────

Step = HttpRequest | Callable[[], None]
Told = tuple[int, bytes] | N1nError


class Asking:
    """Makes calls one after another with a client of one kind."""

    def __init__(self, kind: type[N1nClient] | type[AsyncN1nClient]) -> None:
        self.kind = kind
        self.is_async = kind is AsyncN1nClient

    def transport(self, **options: object) -> httpx.HTTPTransport | httpx.AsyncHTTPTransport:
        """A transport of httpx's own for this kind of client."""
        return (httpx.AsyncHTTPTransport if self.is_async else httpx.HTTPTransport)(**options)

    def __call__(self, url: str, *steps: Step, **options: object) -> list[Told]:
        """Status and body, or the error, of each request; what is none is called in between."""
        if self.is_async:
            return asyncio.run(self._all(url, steps, options))
        with N1nClient(KEY, url, **options) as client:
            return [told for step in steps if (told := _told(step, client))]

    def over_http2(self, url: str, *steps: Step, **options: object) -> list[Told]:
        """The same over HTTP/2 without TLS."""
        return self(url, *steps, transport=self.transport(http1=False, http2=True), **options)

    async def _all(self, url: str, steps: tuple[Step, ...], options: dict[str, object]) -> list[Told]:
        async with AsyncN1nClient(KEY, url, **options) as client:
            return [told for step in steps if (told := await atold(step, client))]


def _told(step: Step, client: N1nClient) -> Told | None:
    if not isinstance(step, HttpRequest):
        return step()
    sink = BytesIO()
    try:
        return client.send(step, sink).status, sink.getvalue()
    except N1nError as error:
        return error


async def atold(step: Step, client: AsyncN1nClient) -> Told | None:
    """Status and body, or the error, of one request."""
    if not isinstance(step, HttpRequest):
        return step()
    sink = BytesIO()
    try:
        return (await client.send(step, sink)).status, sink.getvalue()
    except N1nError as error:
        return error
