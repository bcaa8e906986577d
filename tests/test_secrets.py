"""No secret is anywhere but in the block that keeps it, whatever goes wrong and however much is logged."""

import base64
import json
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from n1n_prefect.blocks import N1nCredentials, S3Location
from tests.examples import png
from tests.prefect_server import PrefectServer
from tests.s3_servers import Answer, S3Server, ScriptedStore, new_bucket

pytestmark = pytest.mark.prefect
LOUD = {
    "PREFECT_LOGGING_LEVEL": "DEBUG",
    "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "httpx,httpcore,hpack,h2,botocore,boto3,s3transfer,urllib3,asyncio,n1n_prefect",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "true",
}
FOLDER = "of-leaky-runs"


def secret() -> str:
    """One that looks like nothing that could be known for a key, and is no different in any encoding."""
    return f"canary{uuid.uuid4().hex}"


# ── a gateway that gives away what it is told ────────────────────────────────


@dataclass
class Gossip:
    """Answers as the prompt says, with the whole request's head in every place where words may stand."""

    url: str = ""
    other: str = ""
    heads: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def answer(self, prompt: str, head: str, key: str) -> tuple[int, dict[str, str], bytes]:
        headers = {"X-Oneapi-Request-Id": key, "X-Request-Id": key}
        said = {"error": {"message": f"Incorrect API key: {key}. {head}", "code": key, "type": key, "status": key}}
        text = f"{head} {key}"
        if prompt.isdecimal():
            return int(prompt), headers, json.dumps(said).encode()
        match prompt:
            case "html":
                return 502, headers, f"<html><pre>{text}</pre></html>".encode()
            case "redirect":
                return 307, {**headers, "Location": f"{self.other}/steal?key={key}"}, text.encode()
            case "no json":
                return 200, headers, text.encode()
            case "picture" | "words" | "refusal":
                return 200, headers, self.reply(prompt, text, key)
        return 400, headers, json.dumps(said).encode()

    def reply(self, prompt: str, text: str, key: str) -> bytes:
        picture = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(png()).decode()}}
        parts = [{"text": text}, *([picture] if prompt == "picture" else [])]
        reason = "IMAGE_SAFETY" if prompt == "refusal" else "STOP"
        candidate = {"content": {"parts": parts}, "finishReason": reason, "finishMessage": text}
        return json.dumps({"candidates": [candidate], "responseId": key, "modelVersion": key}).encode()


def _handler(gossip: Gossip) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            head = f"{self.requestline} {self.headers}"
            gossip.heads.append(head)
            prompt = json.loads(body)["contents"][0]["parts"][-1]["text"] if body else "401"
            if prompt == "never":
                gossip.over.wait()
                return
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, headers, answer = gossip.answer(prompt, head, key)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST  # noqa: N815 - the name http.server looks for

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed is what one test is about."""


@pytest.fixture
def gossip() -> Iterator[Gossip]:
    gossip, elsewhere = Gossip(), Gossip()
    with _Quiet(("127.0.0.1", 0), _handler(gossip)) as one, _Quiet(("127.0.0.1", 0), _handler(elsewhere)) as other:
        gossip.url, gossip.other = (f"http://127.0.0.1:{server.server_port}" for server in (one, other))
        for server in (one, other):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        yield gossip
        gossip.over.set()
        for server in (one, other):
            server.shutdown()
    assert not elsewhere.heads, "the key went to another host"


# ── where it is looked for ───────────────────────────────────────────────────


@pytest.fixture
def server(prefect_server: PrefectServer) -> Iterator[PrefectServer]:
    """The session's server, which this process talks to as well."""
    with temporary_settings({PREFECT_API_URL: prefect_server.api_url}):
        yield prefect_server


class Leaky:
    """Runs `tests.leaky` in a home below the server's, and looks for secrets in all that is left of it."""

    def __init__(self, server: PrefectServer) -> None:
        self.server = server
        self.output = ""

    def run(self, scenario: str, block: str, *words: str, **environment: str) -> str:
        home = {"PREFECT_HOME": str(self.server.home / FOLDER)}
        command = ["python", "-m", "tests.leaky", scenario, block, *words]
        self.output += self.server.run(*command, check=False, **LOUD, **home, **environment)
        return self.output

    def assert_nowhere(self, *secrets: str) -> None:
        for secret in secrets:
            where = self.output.find(secret)
            assert where < 0, f"in the output: …{self.output[max(0, where - 1500) : where + 200]}…"
            files = self.server.holding(secret)
            around = [path.read_bytes().partition(secret.encode()) for path in files]
            assert not files, [
                (path, found[0][-400:], found[2][:50]) for path, found in zip(files, around, strict=True)
            ]


@pytest.fixture
def leaky(server: PrefectServer) -> Leaky:
    return Leaky(server)


def saved(name: str, **fields: Any) -> str:
    """A saved credentials block's name."""
    N1nCredentials(**fields).save(name, overwrite=True)
    return name


# ── the scenarios ────────────────────────────────────────────────────────────


class TestGateway:
    PROMPTS = ("401", "403", "400", "404", "429", "500", "html", "redirect", "no json", "picture", "words", "refusal")

    def test_that_says_everything_back(self, leaky: Leaky, gossip: Gossip):
        key = secret()
        output = leaky.run(
            "gateway", saved("gossip", api_key=key, base_url=gossip.url, timeout_seconds=20), *self.PROMPTS
        )
        assert sum(f"Bearer {key}" in head for head in gossip.heads) >= len(self.PROMPTS), output
        assert "AuthenticationError" in output
        assert '"name": "n1n.' in output
        assert "prefect.hooks" in output
        lines = leaky.server.post("/logs/filter", logs={"level": {"le_": 10}}, limit=200)
        assert {"httpcore.http11", "httpcore.connection"} <= {line["name"] for line in lines}
        leaky.assert_nowhere(key)

    def test_process_that_ends_in_the_middle_of_a_call(self, leaky: Leaky, gossip: Gossip):
        key = secret()
        output = leaky.run("end", saved("gossip-end", api_key=key, base_url=gossip.url), "never")
        assert len(gossip.heads) == 1, output
        assert "Traceback" in output or "crashed" in output.lower()
        leaky.assert_nowhere(key)


class TestStore:
    def test_that_fails_in_every_way(
        self,
        leaky: Leaky,
        n1n_gateway_factory: Any,
        moto_server: S3Server,
        moto_client: Any,
        rclone_server: S3Server,
        scripted_store: ScriptedStore,
    ):
        gateway = n1n_gateway_factory(api_keys=[key := secret()], canned=True, grain=False)
        wrong, token, role_secret, role_token = (secret() for _ in range(4))
        bucket = new_bucket(moto_client)
        scripted_store.says(_assumed(role_secret, role_token), *[_echoing(token)] * 200)
        own = scripted_store.server
        locations = {
            "leaky-good": S3Server(moto_server.endpoint_url, "an-id", wrong).location(
                bucket, aws_session_token=token, tags={"team": "pim"}
            ),
            "leaky-wrong": S3Server(rclone_server.endpoint_url, rclone_server.access_key, wrong).location("shop"),
            "leaky-role": S3Server(own.endpoint_url, "an-id", wrong).location(
                "shop", aws_session_token=token, assume_role_arn="arn:aws:iam::123456789012:role/images"
            ),
            "leaky-echo": S3Server(own.endpoint_url, "an-id", wrong).location("shop", aws_session_token=token),
            "leaky-unchecked": S3Location(bucket="shop", region_name="us-east-1"),
        }
        for name, location in locations.items():
            location.save(name, overwrite=True)
        password = secret()
        reads = [
            f"s3://{bucket}/absent.png",
            f"https://me:{password}@127.0.0.1/fox.png",
            f"https://127.0.0.1/fox.png?X-Amz-Signature={password}&X-Amz-Security-Token={password}",
        ]
        endpoint = f"http://me:{password}@127.0.0.1:1"
        output = leaky.run(
            "store",
            saved("leaky-store", api_key=key, base_url=gateway.base_url),
            "a fox",
            *locations,
            LEAKY_READS=" ".join(reads),
            AWS_ENDPOINT_URL_STS=own.endpoint_url,
            AWS_ENDPOINT_URL_S3=endpoint,
            AWS_ACCESS_KEY_ID="an-id",
            AWS_SECRET_ACCESS_KEY=wrong,
        )
        assert "SignatureDoesNotMatch" in output, output[-3000:]
        assert "EndpointConnectionError" in output
        assert "user name or password" in output
        assert "botocore" in output
        assert any("AssumeRole" in request.body.decode("latin-1") for request in scripted_store.requests)
        leaky.assert_nowhere(key, wrong, token, role_secret, role_token, password)
        shown = json.dumps(list(_everything(moto_client, bucket)), default=str)
        assert "image/png" in shown or "image/jpeg" in shown
        assert not any(found in shown for found in (key, wrong, token))


def _assumed(secret: str, token: str) -> Answer:
    """What STS answers, for an hour."""
    until = (datetime.now(timezone.utc) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    keys = f"<AccessKeyId>ASIA0123456789ABCDEF</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>"
    rest = f"<SessionToken>{token}</SessionToken><Expiration>{until}</Expiration>"
    result = f"<AssumeRoleResult><Credentials>{keys}{rest}</Credentials></AssumeRoleResult>"
    return Answer(body=f"<AssumeRoleResponse>{result}</AssumeRoleResponse>".encode())


def _echoing(token: str) -> Answer:
    """A store that says the session token back, as AWS does in an element of its own."""
    said = f"<Code>InvalidToken</Code><Message>The token {token} is bad</Message><Token-0>{token}</Token-0>"
    return Answer(400, body=f"<?xml version='1.0'?><Error>{said}</Error>".encode(), headers={"x-amz-request-id": token})


def _everything(client: Any, bucket: str) -> Iterator[Any]:
    """Names, metadata, tags and bytes of all objects."""
    for found in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        place = {"Bucket": bucket, "Key": found["Key"]}
        answer = client.get_object(**place)
        yield [found, {**answer, "Body": answer["Body"].read().decode("latin-1")}, client.get_object_tagging(**place)]
