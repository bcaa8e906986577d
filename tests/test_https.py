import datetime
import gzip
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import httpcore
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from n1n_prefect.errors import SourceError
from n1n_prefect.https import Limits, fetch_https, is_public, resolve_host, shown

PUBLIC = "93.184.216.34"
OTHER_PUBLIC = "2606:2800:220:1:248:1893:25c8:1946"
HOST = "images.example.com"
URL = f"https://{HOST}/cat.png"


def answer(status: int = 200, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def redirect(location: str, status: int = 302) -> bytes:
    return answer(status, b"moved", f"Location: {location}")


class Recorded(httpcore.NetworkBackend):
    """Answers each connection with the next recorded reply and keeps what was connected to."""

    def __init__(self, *replies: bytes) -> None:
        self.replies = list(replies)
        self.connections: list[tuple[str, int]] = []

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        self.connections.append((host, port))
        if not self.replies:
            raise httpcore.ConnectError("[Errno 111] Connection refused")
        return httpcore.MockStream([self.replies.pop(0)])


def to(*addresses: str) -> Callable[[str, int], list[str]]:
    return lambda host, port: list(addresses)


def fetch(url: str, *replies: bytes, rules: Limits | None = None) -> bytes:
    return fetch_https(url, rules, resolve=to(PUBLIC), network_backend=Recorded(*replies))


class TestIsPublic:
    @pytest.mark.parametrize("address", [PUBLIC, OTHER_PUBLIC, "::ffff:8.8.8.8", "64:ff9b::808:808", "1.1.1.1"])
    def test_public_addresses(self, address):
        assert is_public(address)

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1", "127.255.0.9", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.254", "192.168.1.1",
            "100.64.0.1", "100.100.100.200", "169.254.169.254", "169.254.170.2", "192.0.0.192", "168.63.129.16",
            "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.7", "192.88.99.1", "224.0.0.1", "239.255.255.250",
            "240.0.0.1", "255.255.255.255",
            "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1",
            "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2002:7f00:1::", "2002:808:808::",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1",
            "ff02::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1",
        ],
    )  # fmt: skip
    def test_everything_else_is_not(self, address):
        assert not is_public(address)

    @pytest.mark.parametrize("text", ["", "localhost", "1.2.3", "8.8.8.8:443", "[::1]"])
    def test_what_is_no_address_is_not_public(self, text):
        assert not is_public(text)


class TestWhereItConnects:
    def test_to_the_address_that_was_checked_and_resolves_once(self):
        asked = []

        def rebinding(host, port):
            asked.append((host, port))
            return [PUBLIC] if len(asked) == 1 else ["127.0.0.1"]

        backend = Recorded(answer(200, b"cat"))
        assert fetch_https(URL, resolve=rebinding, network_backend=backend) == b"cat"
        assert backend.connections == [(PUBLIC, 443)]
        assert asked == [(HOST, 443)]

    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1", "127.1", "0x7f000001", "0x7f.1", "2130706433", "017700000001", "0", "[::1]",
            "[::ffff:127.0.0.1]", "localhost", "localhost.", "169.254.169.254", "[fd00:ec2::254]", "10.0.0.1",
        ],
    )  # fmt: skip
    def test_never_to_a_host_that_the_system_takes_for_a_private_one(self, host):
        backend = Recorded(answer(200, b"secret"))
        with pytest.raises(SourceError) as caught:
            fetch_https(f"https://{host}/latest/meta-data", resolve=resolve_host, network_backend=backend)
        assert backend.connections == []
        assert not caught.value.is_transient

    @pytest.mark.parametrize("addresses", [(PUBLIC, "10.0.0.5"), ("10.0.0.5", PUBLIC), ("fd00::1",)])
    def test_one_private_address_among_the_host_s_is_enough_to_refuse(self, addresses):
        backend = Recorded(answer(200, b"secret"))
        with pytest.raises(SourceError, match=r"images\.example\.com.*not on the public internet"):
            fetch_https(URL, resolve=to(*addresses), network_backend=backend)
        assert backend.connections == []

    def test_a_host_without_any_address(self):
        with pytest.raises(SourceError, match="no address"):
            fetch_https(URL, resolve=to(), network_backend=Recorded())

    def test_to_the_next_address_when_one_is_unreachable(self):
        class FirstIsDown(Recorded):
            def connect_tcp(self, host, port, timeout=None, *rest, **more):
                if host == OTHER_PUBLIC:
                    self.connections.append((host, port))
                    assert timeout <= 15  # half of the whole time, so that it cannot swallow all of it
                    raise httpcore.ConnectTimeout
                return super().connect_tcp(host, port, timeout, *rest, **more)

        backend = FirstIsDown(answer(200, b"cat"))
        assert fetch_https(URL, resolve=to(OTHER_PUBLIC, PUBLIC), network_backend=backend) == b"cat"
        assert backend.connections == [(OTHER_PUBLIC, 443), (PUBLIC, 443)]

    def test_an_explicit_high_port(self):
        backend = Recorded(answer(200, b"cat"))
        fetch_https(f"https://{HOST}:8443/cat.png", resolve=to(PUBLIC), network_backend=backend)
        assert backend.connections == [(PUBLIC, 8443)]

    def test_a_proxy_in_the_environment_is_not_used(self, monkeypatch):
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        backend = Recorded(answer(200, b"cat"))
        fetch_https(URL, resolve=to(PUBLIC), network_backend=backend)
        assert backend.connections == [(PUBLIC, 443)]

    @pytest.mark.parametrize(
        ("failure", "transient"),
        [
            (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), False),
            (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), True),
            (UnicodeError("label too long"), False),
        ],
    )
    def test_a_host_that_does_not_resolve(self, failure, transient):
        def resolve(host, port):
            raise failure

        with pytest.raises(SourceError, match="not found") as caught:
            fetch_https(URL, resolve=resolve, network_backend=Recorded())
        assert caught.value.is_transient is transient


class TestAddresses:
    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("http://example.com/cat.png", "only those are read"),
            ("ftp://example.com/cat.png", "only those are read"),
            ("https:///cat.png", "only those are read"),
            ("/cat.png", "only those are read"),
            ("https://user:secret@example.com/cat.png", "user name or password"),
            ("https://good.example\\@evil.example/cat.png", "user name or password"),
            ("https://example.com:22/cat.png", "port 22"),
            ("https://example.com:80/cat.png", "port 80"),
            ("https://example.com:0/cat.png", "port 0"),
            ("https://example.com:99999/cat.png", "port 99999"),
            ("https://user:secret/word@example.com/cat.png", "not well-formed"),
            ("https://exa\nmple.com/cat.png", "not well-formed"),
            ("https://\ud800.example/", "not well-formed"),
            ("https://\uff11\uff12\uff17.\uff10.\uff10.\uff11/", "not well-formed"),
            ("https://" + "a" * 70_000, "not well-formed"),
        ],
    )
    def test_what_is_no_address_of_ours(self, url, said):
        with pytest.raises(SourceError, match=said) as caught:
            fetch(url, answer(200, b"cat"))
        assert "secret" not in str(caught.value)
        assert len(str(caught.value)) < 500

    def test_shown_holds_no_query_no_credentials_no_fragment_and_no_key(self):
        assert shown("https://user:secret@h.example:8443/a/b.png?X-Amz-Signature=abc#part") == (
            "https://h.example:8443/a/b.png"
        )
        assert shown("https://user:secret/word@h.example/") == "https://…"
        assert "sk-abcdefgh12345678" not in shown("https://h.example/sk-abcdefgh12345678/cat.png")


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_are_followed_to_another_host_with_the_same_checks(self, status):
        asked = []

        def resolve(host, port):
            asked.append(host)
            return [PUBLIC]

        backend = Recorded(redirect("https://cdn.example.org/x?sig=1", status), answer(200, b"cat"))
        assert fetch_https(URL, resolve=resolve, network_backend=backend) == b"cat"
        assert asked == [HOST, "cdn.example.org"]

    def test_relative_ones_too(self):
        assert fetch(URL, redirect("../b/dog.png"), answer(200, b"dog")) == b"dog"

    def test_to_a_private_host_end_there(self):
        backend = Recorded(redirect("https://metadata.internal/latest"), answer(200, b"secret"))
        resolve = {HOST: [PUBLIC], "metadata.internal": ["169.254.169.254"]}
        with pytest.raises(SourceError, match=r"metadata\.internal"):
            fetch_https(URL, resolve=lambda host, port: resolve[host], network_backend=backend)
        assert backend.connections == [(PUBLIC, 443)]

    @pytest.mark.parametrize(
        "location",
        ["https://127.0.0.1/", "https://[::ffff:7f00:1]/", "https://2130706433/", "https://0x7f000001:8443/x"],
    )
    def test_to_loopback_end_there(self, location):
        backend = Recorded(redirect(location), answer(200, b"secret"))
        first = iter([[PUBLIC]])
        with pytest.raises(SourceError, match="public internet"):
            fetch_https(
                URL,
                resolve=lambda host, port: next(first, None) or resolve_host(host, port),
                network_backend=backend,
            )
        assert backend.connections == [(PUBLIC, 443)]

    @pytest.mark.parametrize(
        ("location", "said"),
        [
            ("http://cdn.example.org/x?sig=hidden", r"http://cdn\.example\.org/x, which is not an https"),
            ("file:///etc/passwd", "not an https"),
            ("gopher://cdn.example.org/", "not an https"),
            ("https://me:hidden@cdn.example.org/", "user name or password"),
            ("https://cdn.example.org:25/", "port 25"),
            ("https://cdn.example.org:hidden/", "no address"),
        ],
    )
    def test_to_what_is_not_read(self, location, said):
        with pytest.raises(SourceError, match=said) as caught:
            fetch(URL, redirect(location), answer(200, b"secret"))
        assert "hidden" not in str(caught.value)
        assert not caught.value.is_transient

    def test_in_a_loop_end_after_three(self):
        backend = Recorded(*[redirect(URL)] * 10)
        with pytest.raises(SourceError, match="more than 3 times") as caught:
            fetch_https(URL + "?sig=hidden", resolve=to(PUBLIC), network_backend=backend)
        assert len(backend.connections) == 4
        assert "hidden" not in str(caught.value)

    def test_three_are_followed_and_none_if_none_are_allowed(self):
        assert fetch(URL, *[redirect("/next")] * 3, answer(200, b"cat")) == b"cat"
        with pytest.raises(SourceError, match="more than 0"):
            fetch(URL, redirect("/next"), answer(200, b"cat"), rules=Limits(max_redirects=0))

    def test_without_a_location(self):
        with pytest.raises(SourceError, match="redirects"):
            fetch(URL, *[answer(302)] * 5)


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "transient"),
        [(204, False), (206, False), (304, False), (400, False), (401, False), (403, False), (404, False),
         (408, True), (425, True), (429, True), (500, True), (502, True), (503, True), (504, True)],
    )  # fmt: skip
    def test_anything_but_200_is_an_error(self, status, transient):
        with pytest.raises(SourceError, match=f"HTTP {status}") as caught:
            fetch(URL + "?sig=hidden", answer(status, b"" if status in (204, 304) else b"hidden text"))
        assert caught.value.is_transient is transient
        assert caught.value.status_code == status
        assert "hidden" not in str(caught.value)

    def test_a_declared_length_beyond_the_limit_is_refused_before_the_body(self):
        reply = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n"
        with pytest.raises(SourceError, match="more than 10 bytes"):
            fetch(URL, reply, rules=Limits(max_bytes=10))

    def test_the_limit_is_inclusive(self):
        assert fetch(URL, answer(200, b"0123456789"), rules=Limits(max_bytes=10)) == b"0123456789"

    def test_an_undeclared_length_beyond_the_limit_is_refused(self):
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"6\r\nabcdef\r\n" * 1000
        with pytest.raises(SourceError, match="more than 10 bytes"):
            fetch(URL, chunked, rules=Limits(max_bytes=10))

    def test_chunks_are_joined(self):
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        assert fetch(URL, chunked) == b"abcde"

    def test_nothing_is_decompressed(self):
        bomb = gzip.compress(bytes(10_000_000))
        reply = answer(200, bomb, "Content-Encoding: gzip", "Content-Type: image/png")
        assert fetch(URL, reply, rules=Limits(max_bytes=20_000)) == bomb

    @pytest.mark.parametrize(
        "reply",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\nhidden",
            b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 6000 + b"\r\n\r\nhidden",
            b"SSH-2.0-OpenSSH_9.2 hidden\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X: " + b"hidden" * 40_000,
            b"",
        ],
    )
    def test_a_broken_answer(self, reply):
        with pytest.raises(SourceError, match="broke off") as caught:
            fetch(URL, reply)
        assert caught.value.is_transient
        assert "hidden" not in str(caught.value)

    def test_a_refused_connection(self):
        with pytest.raises(SourceError, match=r"was not reached: \[Errno 111\] Connection refused") as caught:
            fetch(URL)
        assert caught.value.is_transient


class TestLimits:
    @pytest.mark.parametrize(
        "wrong", [{"max_bytes": 0}, {"timeout_seconds": 0}, {"timeout_seconds": float("inf")}, {"max_redirects": -1}]
    )
    def test_nonsense_is_refused(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Limits(**wrong)


# ── the same through a real TLS connection ───────────────────────────────────


class Server:
    """Speaks TLS on 127.0.0.1 and sends each connection a list of pieces, a pause between them."""

    def __init__(self, certificate: tuple[str, str]) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*certificate)
        self.context.sni_callback = lambda _, name, __: self.names.append(name)
        self.names: list[str | None] = []
        self.requests: list[bytes] = []
        self.pieces: list[bytes] = []
        self.pause_seconds = 0.0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    @property
    def port(self) -> int:
        return self.listener.getsockname()[1]

    def _serve(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            with connection:
                connection.settimeout(10)
                if connection.recv(1, socket.MSG_PEEK) == b"":
                    return
                try:
                    self._answer(connection)
                except OSError:
                    continue

    def _answer(self, connection: socket.socket) -> None:
        with self.context.wrap_socket(connection, server_side=True) as tls:
            received = b""
            while b"\r\n\r\n" not in received:
                received += tls.recv(4096)
            self.requests.append(received)
            for piece in self.pieces:
                tls.sendall(piece)
                time.sleep(self.pause_seconds)

    def close(self) -> None:
        socket.create_connection(("127.0.0.1", self.port)).close()
        self.thread.join()
        self.listener.close()


class Redirected(httpcore.SyncBackend):
    """Connects to the local server whatever public address is asked for, as a router would."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections: list[tuple[str, int]] = []

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        self.connections.append((host, port))
        return super().connect_tcp("127.0.0.1", self.port, timeout, local_address, socket_options)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[str, str]:
    """Paths of a self-signed certificate for HOST, and of its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address(OTHER_PUBLIC))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


@pytest.fixture(scope="module")
def trust(certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate[0])


@pytest.fixture
def server(certificate) -> Iterator[Server]:
    server = Server(certificate)
    yield server
    server.close()


class TestOverTls:
    def test_the_checked_address_gets_the_host_s_name_in_sni_and_in_the_header(self, server, trust):
        server.pieces = [answer(200, b"the cat", "Set-Cookie: a=b")]
        backend = Redirected(server.port)
        url = f"https://{HOST}:8443/a%20cat.png?sig=1#part"
        body = fetch_https(url, resolve=to(PUBLIC), network_backend=backend, ssl_context=trust)
        assert body == b"the cat"
        assert backend.connections == [(PUBLIC, 8443)]
        assert server.names == [HOST]
        line, *headers = server.requests[0].decode().strip().split("\r\n")
        assert line == "GET /a%20cat.png?sig=1 HTTP/1.1"
        sent = dict(header.lower().split(": ") for header in headers)
        assert sent.pop("user-agent").startswith("n1n-prefect/")
        assert sent == {
            "host": f"{HOST}:8443",
            "accept": "image/*",
            "accept-encoding": "identity",
            "connection": "close",
        }

    def test_no_cookie_travels_with_a_redirect(self, server, trust):
        server.pieces = [answer(302, b"", "Location: /next", "Set-Cookie: session=1; Path=/", "Connection: close")]
        with pytest.raises(SourceError, match="more than 1 times"):
            fetch_https(
                URL,
                Limits(max_redirects=1),
                resolve=to(PUBLIC),
                network_backend=Redirected(server.port),
                ssl_context=trust,
            )
        assert len(server.requests) == 2
        assert b"cookie" not in server.requests[1].lower()

    def test_a_literal_ipv6_address(self, server, trust):
        server.pieces = [answer(200, b"the cat")]
        backend = Redirected(server.port)
        fetch_https(f"https://[{OTHER_PUBLIC}]:8443/", network_backend=backend, ssl_context=trust)
        assert backend.connections == [(OTHER_PUBLIC, 8443)]
        assert f"Host: [{OTHER_PUBLIC}]:8443\r\n".encode() in server.requests[0]

    def test_a_certificate_for_another_host_is_refused_before_anything_is_sent(self, server, trust):
        server.pieces = [answer(200, b"the cat")]
        with pytest.raises(SourceError, match="no valid certificate") as caught:
            fetch_https(
                "https://other.example.com/", resolve=to(PUBLIC), network_backend=Redirected(server.port),
                ssl_context=trust,
            )  # fmt: skip
        assert not caught.value.is_transient
        assert server.requests == []

    def test_a_self_signed_certificate_is_refused_by_default(self, server):
        with pytest.raises(SourceError, match="no valid certificate"):
            fetch_https(URL, resolve=to(PUBLIC), network_backend=Redirected(server.port))
        assert server.requests == []

    def test_the_environment_s_list_of_authorities_is_used(self, server, certificate, monkeypatch):
        monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
        server.pieces = [answer(200, b"the cat")]
        context = httpx.create_ssl_context()
        assert fetch_https(URL, resolve=to(PUBLIC), network_backend=Redirected(server.port), ssl_context=context)

    @pytest.mark.parametrize(
        "pieces",
        [
            [answer(200, b"x" * 300)[:-300], *[b"x"] * 300],
            [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", *[b"A: b\r\n"] * 300, b"\r\n"],
            [*[b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 300, answer(200, b"x")],
        ],
        ids=["body", "headers", "hints"],
    )
    def test_a_slow_drip_ends_at_the_deadline(self, server, trust, pieces):
        server.pieces, server.pause_seconds = pieces, 0.02
        with pytest.raises(SourceError, match=r"within 0\.4 s") as caught:
            fetch_https(
                URL,
                Limits(timeout_seconds=0.4),
                resolve=to(PUBLIC),
                network_backend=Redirected(server.port),
                ssl_context=trust,
            )
        assert caught.value.is_transient

    def test_a_server_that_does_not_speak_tls(self, trust):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

            def greet() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"220 mail.example.com ESMTP\r\n")

            thread = threading.Thread(target=greet)
            thread.start()
            with pytest.raises(SourceError, match="not reached"):
                fetch_https(URL, resolve=to(PUBLIC), network_backend=Redirected(port), ssl_context=trust)
            thread.join()
