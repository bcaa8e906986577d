import logging
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from n1n_prefect.blocks import S3Location
from n1n_prefect.errors import InvalidRequestError, SourceError, UploadError
from tests.examples import generated
from tests.raw_servers import certified
from tests.s3_servers import Answer, RolesServer, S3Server, ScriptedStore, _running, free_port, new_bucket

FOX = b"\x89PNG a red fox"
ROLE = "arn:aws:iam::123456789012:role/images"


def put(location: S3Location, **options: Any) -> str:
    return location.put_image(FOX, image=generated(FOX), **options).key


class TestRole:
    """Against a store that asks for permissions, and gives them to the role alone."""

    def test_calls_are_made_as_the_role(self, roles_server: RolesServer):
        with pytest.raises(UploadError, match="grant s3:PutObject"):
            put(roles_server.worker.location(roles_server.bucket))
        location = roles_server.worker.location(
            roles_server.bucket, prefix="as-the-role", assume_role_arn=roles_server.role_arn
        )
        assert put(location) in roles_server.objects()
        assert location.read(roles_server.bucket, put(location), 100) == FOX

    @pytest.mark.parametrize(
        ("who", "fields", "said"),
        [
            ("stranger", {}, "may not assume the role; its trust policy must name them.* STS says AccessDenied"),
            ("worker", {"aws_secret_access_key": "not-the-secret"}, "enter aws_secret_access_key again"),
            ("worker", {"aws_access_key_id": "AKIA" + "Q" * 16}, "STS does not know the access key"),
        ],
    )
    def test_that_may_not_be_assumed(self, roles_server: RolesServer, who: str, fields: dict[str, str], said: str):
        keys = {"assume_role_arn": roles_server.role_arn, **fields}
        location = getattr(roles_server, who).location(roles_server.bucket, **keys)
        with pytest.raises(UploadError, match=said) as caught:
            put(location)
        assert (caught.value.is_transient, caught.value.status_code) == (False, 403)
        with pytest.raises(SourceError, match=said):
            location.read(roles_server.bucket, "fox.png", 100)

    def test_keys_of_a_profile(self, roles_server: RolesServer, profiles: Path):
        profile(profiles, "worker", roles_server.worker)
        keys = {"aws_access_key_id": "", "aws_secret_access_key": "", "profile_name": "worker", "prefix": "by-profile"}
        with pytest.raises(UploadError, match="grant s3:PutObject"):
            put(roles_server.worker.location(roles_server.bucket, **keys))
        location = roles_server.worker.location(roles_server.bucket, assume_role_arn=roles_server.role_arn, **keys)
        assert put(location) in roles_server.objects()


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An AWS configuration of the test's own."""
    path = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return path


def profile(path: Path, name: str, server: S3Server) -> None:
    keys = f"aws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n"
    path.write_text(f"[{name}]\n{keys}")


def assumed(number: int, lasts: timedelta) -> Answer:
    """What STS answers; the key's number tells which answer a later call is signed with."""
    until = (datetime.now(timezone.utc) + lasts).strftime("%Y-%m-%dT%H:%M:%SZ")
    keys = f"<AccessKeyId>ASIA{number:016}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>"
    token = f"<SessionToken>token-{number}</SessionToken><Expiration>{until}</Expiration>"
    result = f"<AssumeRoleResult><Credentials>{keys}{token}</Credentials></AssumeRoleResult>"
    xmlns = "https://sts.amazonaws.com/doc/2011-06-15/"
    return Answer(body=f'<AssumeRoleResponse xmlns="{xmlns}">{result}</AssumeRoleResponse>'.encode())


REFUSED = Answer(
    403, body=b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>"
)
WRITTEN = Answer(headers={"ETag": '"e"'})


def signers(store: ScriptedStore) -> list[str]:
    """Who signed each request, by the last digit of the key ID; STS's are marked."""
    found = [request.headers["authorization"].partition("Credential=")[2] for request in store.requests]
    return [f"{'sts ' if '/sts/' in key else ''}{key.partition('/')[0]}" for key in found]


class TestAskingForARole:
    """Store and STS follow one script, so that what is asked, and when, is seen."""

    @pytest.fixture
    def store(self, scripted_store: ScriptedStore, monkeypatch: pytest.MonkeyPatch) -> ScriptedStore:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", scripted_store.server.endpoint_url)
        return scripted_store

    @pytest.fixture
    def numbered(self) -> str:
        """A session's name that no other test has, and so a client of its own."""
        return f"n1n-{uuid.uuid4().hex}"

    def location(self, store: ScriptedStore, name: str, **fields: Any) -> S3Location:
        """A location that no other test has a client of; it asks the store once for each image."""
        session = {"assume_role_arn": ROLE, "assume_role_session_name": name}
        return store.server.location("shop", **{"conditional_put": "always", **session, **fields})

    def test_says_what_the_block_says(self, store: ScriptedStore, numbered: str):
        options = {"SourceIdentity": "team", "PolicyArns": [{"arn": "arn:aws:iam::aws:policy/AmazonS3FullAccess"}]}
        given = {"assume_role_external_id": "x-1", "assume_role_duration_seconds": 900, "assume_role_options": options}
        store.says(assumed(1, timedelta(hours=1)), WRITTEN)
        put(self.location(store, numbered, **given))
        asked = {name: value for name, [value] in parse_qs(store.requests[0].body.decode()).items()}
        assert asked == {
            "Action": "AssumeRole",
            "Version": "2011-06-15",
            "RoleArn": ROLE,
            "RoleSessionName": numbered,
            "DurationSeconds": "900",
            "ExternalId": "x-1",
            "SourceIdentity": "team",
            "PolicyArns.member.1.arn": "arn:aws:iam::aws:policy/AmazonS3FullAccess",
        }
        assert store.requests[1].headers["x-amz-security-token"] == "token-1"

    def test_once_while_its_keys_hold(self, store: ScriptedStore, numbered: str):
        store.says(assumed(1, timedelta(hours=1)), *[WRITTEN] * 3)
        for name in "abc":
            put(self.location(store, numbered), key=f"{name}.png")
        own, first = f"sts {store.server.access_key}", f"ASIA{1:016}"
        assert signers(store) == [own, first, first, first]

    @pytest.mark.parametrize(("lasts", "renewed"), [(timedelta(minutes=14), True), (timedelta(minutes=16), False)])
    def test_again_before_they_expire(self, store: ScriptedStore, numbered: str, lasts: timedelta, renewed: bool):
        store.says(assumed(1, lasts), WRITTEN, *[assumed(2, timedelta(hours=1))] * renewed, WRITTEN)
        for name in "ab":
            put(self.location(store, numbered), key=f"{name}.png")
        own = f"sts {store.server.access_key}"
        second = [own, f"ASIA{2:016}"] if renewed else [f"ASIA{1:016}"]
        assert signers(store) == [own, f"ASIA{1:016}", *second]
        assert store.requests[-1].headers["x-amz-security-token"] == ("token-2" if renewed else "token-1")

    def test_a_short_role_is_not_asked_for_at_every_call(self, store: ScriptedStore, numbered: str):
        location = self.location(store, numbered, assume_role_duration_seconds=900)
        store.says(assumed(1, timedelta(minutes=14)), WRITTEN, WRITTEN)
        for name in "ab":
            put(location, key=f"{name}.png")
        assert signers(store)[1:] == [f"ASIA{1:016}"] * 2

    def test_keys_that_hold_still_serve_while_sts_fails(
        self, store: ScriptedStore, numbered: str, caplog: pytest.LogCaptureFixture
    ):
        store.says(assumed(1, timedelta(minutes=14)), WRITTEN, REFUSED, WRITTEN)
        with caplog.at_level(logging.WARNING, "botocore.credentials"):
            for name in "ab":
                put(self.location(store, numbered), key=f"{name}.png")
        assert "Refreshing temporary credentials failed during advisory refresh period" in caplog.text
        assert signers(store)[-1] == f"ASIA{1:016}"

    def test_a_role_that_was_taken_away(self, store: ScriptedStore, numbered: str):
        store.says(assumed(1, timedelta(minutes=9)), WRITTEN, REFUSED)
        put(self.location(store, numbered), key="a.png")
        with pytest.raises(UploadError, match="may not assume the role"):
            put(self.location(store, numbered), key="b.png")
        assert len(store.requests) == 3

    def test_once_for_all_threads(self, store: ScriptedStore, numbered: str):
        location = self.location(store, numbered)
        store.says(assumed(1, timedelta(hours=1)), *[WRITTEN] * 8)
        location.get_client()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: put(location, key=f"{number}.png"), range(8)))
        assert sum(who.startswith("sts") for who in signers(store)) == 1

    @pytest.mark.parametrize(
        ("status", "code", "said", "is_transient"),
        [
            (400, "ValidationError", "MaxSessionDuration", False),
            (403, "RegionDisabledException", "STS is not active in this region", False),
            (403, "ExpiredToken", "renew it", False),
            (400, "Throttling", "STS is busy", True),
            (503, "", "STS is busy", True),
            (400, "Odd", "STS refuses it, in its own words", False),
        ],
    )
    def test_refusals(self, store: ScriptedStore, numbered: str, status: int, code: str, said: str, is_transient: bool):
        error = f"<ErrorResponse><Error><Code>{code}</Code><Message>Own words.</Message></Error></ErrorResponse>"
        store.says(*[Answer(status, body=error.encode() if code else b"")] * 9)
        with pytest.raises(UploadError, match=said) as caught:
            put(self.location(store, numbered))
        assert caught.value.is_transient is is_transient

    def test_sts_out_of_reach_is_named(self, store: ScriptedStore, numbered: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", nowhere := f"http://127.0.0.1:{free_port()}")
        with pytest.raises(UploadError, match=f"AWS_ENDPOINT_URL_STS.*{nowhere}") as caught:
            put(self.location(store, numbered))
        assert caught.value.is_transient


class TestProfile:
    def test_keys_of_a_profile(self, rclone_server: S3Server, rclone_client: Any, profiles: Path):
        profile(profiles, "shop", rclone_server)
        keys = {"aws_access_key_id": "", "aws_secret_access_key": "", "profile_name": "shop", "checksum": "md5"}
        location = rclone_server.location(new_bucket(rclone_client), **keys)
        assert location.read(location.bucket, put(location), 100) == FOX


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority")
    certified(folder)
    return folder


@pytest.fixture(scope="module")
def tls_server(authority: Path) -> Iterator[S3Server]:
    """A store whose certificate nobody knows."""
    port, both = free_port(), str(authority / "both.pem")
    command = [
        sys.executable,
        "-m",
        "moto.server",
        "-H",
        "127.0.0.1",
        "-p",
        str(port),
        "-s",
        "-c",
        both,
        "-k",
        both,
    ]
    for _ in _running(command, port):
        yield S3Server(f"https://127.0.0.1:{port}", "test-access-key", "test-secret-key")


class TestTrust:
    def test_ca_bundle(self, tls_server: S3Server, authority: Path):
        location = tls_server.location("shop", ca_bundle=str(authority / "both.pem"))
        location.get_client().create_bucket(Bucket="shop")
        assert location.read("shop", put(location), 100) == FOX

    def test_unknown_authority(self, tls_server: S3Server):
        with pytest.raises(UploadError, match="ca_bundle or AWS_CA_BUNDLE names your own authority"):
            put(tls_server.location("shop"))

    @pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
    def test_unchecked(self, tls_server: S3Server):
        location = tls_server.location("unchecked", verify=False)
        location.get_client().create_bucket(Bucket="unchecked")
        assert location.read("unchecked", put(location), 100) == FOX

    def test_home_is_expanded(self, tls_server: S3Server, authority: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("HOME", str(authority))
        location = tls_server.location("at-home", ca_bundle="~/both.pem")
        location.get_client().create_bucket(Bucket="at-home")
        (authority / "gone.pem").touch()
        with pytest.raises(InvalidRequestError, match="is no file on this machine"):
            tls_server.location("at-home", ca_bundle="~/absent.pem").get_client()
