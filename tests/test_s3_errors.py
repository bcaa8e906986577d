import hashlib
import pickle
import re
from contextlib import closing
from typing import Any

import pytest

from n1n_prefect import s3, s3_errors
from n1n_prefect.errors import UploadError
from tests.s3_servers import Answer, S3Server, ScriptedStore, free_port

FOX = b"\x89PNG a red fox"


def put(client: Any, bucket: str, key: str, **options: Any) -> s3.Put:
    sha256 = hashlib.sha256(FOX).hexdigest()
    return s3.put(client, bucket=bucket, key=key, data=FOX, sha256=sha256, media_type="image/png", **options)


@pytest.fixture
def scripted(scripted_client: Any) -> Any:
    return scripted_client


class TestLocationErrors:
    @pytest.mark.parametrize(
        ("status", "code", "said", "is_transient"),
        [
            (404, "NoSuchBucket", "there is no bucket 'shop'", False),
            (403, "InvalidAccessKeyId", "does not know this access key", False),
            (403, "SignatureDoesNotMatch", "aws_secret_access_key", False),
            (403, "AccessDenied", "grant s3:PutObject", False),
            (403, "RequestTimeTooSkewed", "clock is more than 15 minutes off", False),
            (400, "ExpiredToken", "session token has expired", False),
            (400, "InvalidBucketName", "'shop' is not a bucket's name", False),
            (400, "RequestTimeout", "another try", True),
            (400, "BadDigest", "did not arrive as they were sent", True),
            (503, "SlowDown", "another try", True),
            (500, "InternalError", "another try", True),
            (502, "", "another try", True),
            (429, "TooManyRequests", "another try", True),
            (501, "NotImplemented", "conditional_put='never'", False),
            (400, "InvalidStorageClass", "in its own words", False),
        ],
    )
    def test_answers(
        self, scripted: Any, scripted_store: ScriptedStore, status: int, code: str, said: str, is_transient: bool
    ):
        scripted_store.says(Answer(status, code, {"x-amz-request-id": "REQ-7"}, message="Own words."))
        with pytest.raises(UploadError, match=re.escape(said)) as caught:
            put(scripted, "shop", "fox.png", conditional="always")
        error = caught.value
        assert (error.status_code, error.is_transient, error.charged) == (status, is_transient, "yes")
        assert error.code == (code or str(status))
        assert "s3://shop/fox.png" in error.message
        if code:
            assert "Own words. (request id: REQ-7)" in str(error)

    def test_wrong_region_names_the_right_one(self, scripted: Any, scripted_store: ScriptedStore):
        wrong = Answer(400, "AuthorizationHeaderMalformed", {"x-amz-bucket-region": "eu-west-1"}, "expecting eu-west-1")
        scripted_store.says(*[wrong] * 4)
        with pytest.raises(UploadError, match="another region, eu-west-1; set region_name"):
            put(scripted, "shop", "fox.png", conditional="always")

    def test_endpoint_down(self):
        nobody = S3Server(f"http://127.0.0.1:{free_port()}", "some-key", "some-secret")
        with closing(nobody.client()) as client, pytest.raises(UploadError, match="check endpoint_url") as caught:
            put(client, "shop", "fox.png")
        assert (caught.value.code, caught.value.is_transient) == ("EndpointConnectionError", True)

    def test_no_answer_in_time(self, scripted_store: ScriptedStore):
        scripted_store.says(Answer(hangs=True))
        with (
            closing(scripted_store.server.client(read_timeout_seconds=0.2)) as client,
            pytest.raises(UploadError, match="did not answer in time") as caught,
        ):
            put(client, "shop", "fox.png", conditional="always")
        assert (caught.value.code, caught.value.is_transient) == ("ReadTimeoutError", True)

    def test_no_credentials(self, scripted_store: ScriptedStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        with (
            closing(s3.make_client(endpoint_url=scripted_store.server.endpoint_url)) as client,
            pytest.raises(UploadError, match="S3Location block") as caught,
        ):
            put(client, "shop", "fox.png")
        assert (caught.value.code, caught.value.is_transient) == ("NoCredentialsError", False)

    def test_bucket_name_that_boto_refuses(self, scripted: Any):
        with pytest.raises(UploadError, match="check bucket") as caught:
            put(scripted, "s3://shop", "fox.png")
        assert caught.value.code == "ParamValidationError"

    def test_travels_between_processes(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(Answer(403, "AccessDenied", message="Not yours."))
        with pytest.raises(UploadError) as caught:
            put(scripted, "shop", "fox.png", conditional="always")
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.code, again.status_code) == (str(caught.value), "AccessDenied", 403)

    def test_cause_does_not_hold_the_session_token(self, scripted_store: ScriptedStore):
        told = b"<Error><Code>SignatureDoesNotMatch</Code><Message>No.</Message><StringToSign>tok-secret</StringToSign>"
        scripted_store.says(Answer(403, body=told + b"</Error>"))
        with (
            closing(scripted_store.server.client(aws_session_token="tok-secret")) as client,
            pytest.raises(UploadError) as caught,
        ):
            put(client, "shop", "fox.png", conditional="always")
        assert scripted_store.requests[0].headers["x-amz-security-token"] == "tok-secret"
        assert "tok-secret" not in repr(vars(caught.value.__cause__))

    def test_closed_connection_does_not_keep_the_request(self, scripted_store: ScriptedStore):
        scripted_store.says(Answer(says_nothing=True))
        with (
            closing(scripted_store.server.client(aws_session_token="tok-secret")) as client,
            pytest.raises(UploadError, match="closed the connection") as caught,
        ):
            put(client, "shop", "fox.png", conditional="always")
        assert caught.value.is_transient
        assert getattr(caught.value.__cause__, "request", None) is None

    def test_every_boto_error_has_a_meaning(self):
        from botocore import exceptions

        kinds = [kind for kind in vars(exceptions).values() if isinstance(kind, type)]
        known = {name for name, _, _ in s3_errors._LOCAL_MEANINGS}
        ours = [kind for kind in kinds if issubclass(kind, exceptions.BotoCoreError)]
        assert len(ours) > 50
        assert all({parent.__name__ for parent in kind.__mro__} & known for kind in ours)
        order = {name: position for position, (name, _, _) in enumerate(s3_errors._LOCAL_MEANINGS)}
        for kind in ours:
            bases = [order[parent.__name__] for parent in kind.__mro__ if parent.__name__ in order]
            assert bases[0] == min(bases), f"{kind.__name__} is read as its base"
