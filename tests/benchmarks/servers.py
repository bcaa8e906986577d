"""The servers that benchmarks talk to, each a process of its own on the loopback interface."""

import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

from n1n_prefect.testing.encoding import commented_base64, split
from tests.benchmarks.measuring import ROOT
from tests.benchmarks.replies import png

_START_SECONDS = 180
LATENCY_SECONDS = (0.3, 0.3)  # so that calls overlap, as real ones of many seconds do
PICTURE_BYTES = 1_940_000
_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
}


@contextmanager
def prefect_server(home: Path, database_url: str = "") -> Iterator[str]:
    """A Prefect server with its own database, SQLite in its home if none is named; gives the API's address."""
    port = free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    env = {**_QUIET, "PREFECT_HOME": str(home)}
    if database_url:
        env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database_url
    with _running(command, f"http://127.0.0.1:{port}/api/health", env):
        yield f"http://127.0.0.1:{port}/api"


@contextmanager
def gateway(
    latency_seconds: tuple[float, float] = LATENCY_SECONDS,
    picture_bytes: int = PICTURE_BYTES,
    pixels: tuple[int, int] = (1024, 1024),
) -> Iterator[str]:
    """The local n1n gateway with pictures of a real one's length, each unlike the others; gives its address.

    Args:
        latency_seconds: How long an image takes, at least and at most.
        picture_bytes: The length of each.
        pixels: Its width and height.
    """
    port = free_port()
    arguments = f"{port}, {latency_seconds!r}, {picture_bytes}, {pixels!r}"
    code = f"from tests.benchmarks.servers import serve_gateway; serve_gateway({arguments})"
    with _running([sys.executable, "-c", code], f"http://127.0.0.1:{port}/ledger", {}):
        yield f"http://127.0.0.1:{port}"


def serve_gateway(port: int, latency_seconds: tuple[float, float], picture_bytes: int, pixels: tuple[int, int]) -> None:
    """Runs the gateway until the process is ended."""
    from n1n_prefect.testing import LocalGateway

    class Gateway(LocalGateway):
        def work(self, billed: bool = True) -> None:
            self.pause(random.uniform(*latency_seconds))

    server = Gateway(port)
    server.drawing = _Noise(png(picture_bytes, *pixels))
    with server:
        threading.Event().wait()


def ledger(gateway_url: str) -> dict[str, Any]:
    """What the gateway billed so far: `calls`, `billed`, `duplicates` and more."""
    with urllib.request.urlopen(f"{gateway_url}/ledger", timeout=60) as answer:
        return json.load(answer)


class _Noise:
    """PNG files of noise in place of drawn pictures, at no cost; each has a number inside."""

    def __init__(self, data: bytes) -> None:
        self._numbers = count()
        self._head, self._rest = split(data)
        self._rest = base64.b64encode(self._rest).decode()

    def draw_base64(self, picture: object) -> str:
        return commented_base64(self._head, f"picture {next(self._numbers)}", self._rest)


@contextmanager
def moto() -> Iterator[str]:
    """An S3 server that keeps objects in memory; gives its address."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, f"http://127.0.0.1:{port}/moto-api/", {}):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def forgetful_s3() -> Iterator[str]:
    """An S3 server that checks images and forgets their bytes, at a tenth of moto's CPU; gives its address."""
    port = free_port()
    code = f"from tests.benchmarks.forgetful_s3 import serve; serve({port})"
    with _running([sys.executable, "-c", code], f"http://127.0.0.1:{port}/", {}):
        yield f"http://127.0.0.1:{port}"


def forget_objects(endpoint_url: str) -> None:
    """Empties an S3 server, whose memory would otherwise fill over the rounds."""
    urllib.request.urlopen(f"{endpoint_url}/moto-api/reset", data=b"").close()


@contextmanager
def scripted_gateway(bodies: list[bytes], media_type: str) -> Iterator[str]:
    """A gateway in this process that answers every call with the next of some prepared bodies; gives its address."""
    left = iter(bodies)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            body = next(left)
            self.send_response(200)
            self.send_header("content-type", media_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def _running(command: list[str], ready_url: str, env: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until_ready(process, ready_url)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"{process.args} was not ready within {_START_SECONDS} s")
