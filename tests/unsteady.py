"""Prefect's API behind a proxy that answers some requests once as no healthy server does."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
from prefect.context import SyncClientContext
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL, temporary_settings

_OWN = {"content-length", "content-encoding", "transfer-encoding", "connection", "date", "server"}


@dataclass(frozen=True)
class Trouble:
    """What happens to the first request of a kind."""

    about: str
    """A pattern for its method, path and body, with blanks between them."""

    status: int = 500
    """What is answered. Prefect's client sends again after 503, and gives up after 500."""

    arrives: bool = False
    """Whether the request reaches the API, so that only its answer is lost."""


class Proxy(ThreadingHTTPServer):
    """Forwards all but the troubled requests."""

    daemon_threads = True

    def __init__(self, upstream: str, *troubles: Trouble) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = httpx.URL(upstream)
        self.ahead = list(troubles)
        """What has not happened yet."""
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{self.upstream.path}"

    def trouble_with(self, request: str) -> Trouble | None:
        with self._lock:
            found = next((trouble for trouble in self.ahead if re.search(trouble.about, request)), None)
            if found:
                self.ahead.remove(found)
        return found


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        trouble = self.server.trouble_with(f"{self.command} {self.path} {body.decode()}")
        if trouble is None:
            reply = self._forwarded(body)
            self._say(reply.status_code, reply.content, dict(reply.headers))
            return
        if trouble.arrives:
            assert self._forwarded(body).is_success
        self._say(trouble.status, b'{"detail": "Trouble"}', {"retry-after": "0"})

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815  http.server finds them by name

    def _forwarded(self, body: bytes) -> httpx.Response:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in {"host", *_OWN}}
        url = self.server.upstream.copy_with(raw_path=self.path.encode())
        return httpx.request(self.command, url, content=body, headers=headers, timeout=60)

    def _say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _OWN:
                self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@contextmanager
def unsteady(*troubles: Trouble) -> Iterator[Proxy]:
    """New clients go through a proxy where each of these happens once; all of them must."""
    emit_event("n1n.test.begun", {"prefect.resource.id": "n1n.test"})  # its worker stays with the API itself
    proxy = Proxy(PREFECT_API_URL.value(), *troubles)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        # A context for clients with other settings, so that nobody takes the flow's own client.
        with temporary_settings({PREFECT_API_URL: proxy.url}), SyncClientContext({"timeout": 60}):
            yield proxy
        assert proxy.ahead == []
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
