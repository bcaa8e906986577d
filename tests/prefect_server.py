"""A real Prefect server in a process of its own, with its UI, for what a team installs and watches.

Slower than the harness in `conftest.py`: for workers, deployments, automations and pages.
"""

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from tests.s3_servers import free_port

Found = TypeVar("Found")
_PATIENCE_SECONDS = 240


@dataclass(frozen=True)
class PrefectServer:
    """A server on a free port; everything it and its workers keep is below `home`."""

    port: int
    home: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def ui_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        return f"{self.ui_url}/api"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that talks to this server."""
        return {
            **os.environ,
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_UI_URL": self.ui_url,
            "PREFECT_CLI_COLORS": "false",
            "PREFECT_CLI_WRAP_LINES": "false",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            **self.settings,
        }

    def run(self, *command: str, check: bool = True, cwd: Path | None = None, **environment: str) -> str:
        """The output of a command, stderr included, in this server's environment.

        `python` is this interpreter, and its scripts, such as `prefect`, are found beside it.
        """
        done = subprocess.run(
            self.command(*command),
            env=self.environment | environment,
            cwd=cwd or Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    @contextmanager
    def running(self, *command: str, log: str, cwd: Path | None = None, **environment: str) -> Iterator["Running"]:
        """A process in this server's environment, whose output goes to a file below `home`; ended after the block."""
        path = self.home / f"{log}.log"
        with path.open("ab") as output:
            process = subprocess.Popen(
                self.command(*command),
                env=self.environment | environment,
                cwd=cwd or Path(__file__).parents[1],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # so that its children can be ended with it
            )
        running = Running(process, path)
        try:
            yield running
        finally:
            running.end()

    def command(self, name: str, *arguments: str) -> list[str]:
        beside = Path(sys.executable).with_name(name)
        return [str(beside) if beside.exists() else name, *arguments]

    def post(self, path: str, **body: Any) -> Any:
        """What the API answers to a POST."""
        for _ in range(10):  # a busy SQLite turns requests away
            reply = httpx.post(f"{self.api_url}{path}", json=body, timeout=30)
            if reply.status_code != 503:
                break
            time.sleep(1)
        assert reply.is_success, f"{path}: {reply.status_code} {reply.text}"
        return reply.json() if reply.content else None

    def patch(self, path: str, **body: Any) -> None:
        """Changes what is at a path of the API."""
        reply = httpx.patch(f"{self.api_url}{path}", json=body, timeout=30)
        assert reply.is_success, f"{path}: {reply.status_code} {reply.text}"

    def get(self, path: str) -> Any:
        """What the API answers to a GET."""
        reply = httpx.get(f"{self.api_url}{path}", timeout=30)
        assert reply.is_success, f"{path}: {reply.status_code} {reply.text}"
        return reply.json()

    def holding(self, secret: str) -> list[Path]:
        """The files below `home` that hold a secret, plainly or within base64, as pickles in results are."""
        needles = [secret.encode(), *_in_base64(secret.encode())]
        files = [path for path in self.home.rglob("*") if path.is_file()]
        return [path for path in files if any(needle in path.read_bytes() for needle in needles)]


@dataclass(frozen=True)
class Running:
    """A process under way, and where its output goes."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def kill(self) -> None:
        """Ends it and its children as a lost machine would."""
        # One by one, since a worker's flow runs are sessions of their own.
        with suppress(psutil.NoSuchProcess):
            for below in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    below.kill()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def end(self) -> None:
        """Ends it as a person or a supervisor would; by force if it does not obey."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        self.kill()


def _in_base64(data: bytes) -> list[bytes]:
    """What every base64 text that holds the data contains, at each of the three offsets."""
    texts = (base64.b64encode(b"\0" * offset + data) for offset in range(3))
    # The first and last characters depend on what stands around the data.
    return [text.rstrip(b"=")[4:-4] for text in texts]


def wait_for(look: Callable[[], Found | None], what: str, seconds: float = _PATIENCE_SECONDS) -> Found:
    """What `look` finds at last; an AssertionError that names it if that takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.3)
    raise AssertionError(f"{what}: not seen within {seconds:g} s")


@contextmanager
def started_server(home: Path, **settings: str) -> Iterator[PrefectServer]:
    """A server that answers; each setting is an environment variable of it and of whoever talks to it."""
    port = free_port()
    server = PrefectServer(
        port,
        home,
        {
            "PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api",
            # SQLite's own patience of 10 s is too short where several servers share a machine: "database is locked".
            "PREFECT_SERVER_DATABASE_TIMEOUT": "120",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_HEARTBEAT_SECONDS": "3",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            **settings,
        },
    )
    with server.running(
        "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), log="server"
    ) as running:
        wait_for(lambda: _is_healthy(server, running), "the Prefect server's health")
        yield server


def _is_healthy(server: PrefectServer, running: Running) -> bool:
    assert running.process.poll() is None, running.output
    with suppress(httpx.HTTPError):
        return httpx.get(f"{server.api_url}/health", timeout=5).is_success
    return False


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """The server that the session's tests share; each takes names of its own for what it makes there."""
    with started_server(tmp_path_factory.mktemp("prefect-server")) as server:
        yield server
