import base64
import hashlib
import logging
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import BytesIO
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from urllib3.response import HTTPResponse

from n1n_prefect import s3
from n1n_prefect.errors import InvalidRequestError, SourceError, UploadError
from tests.s3_servers import Answer, S3Server, ScriptedStore, new_bucket

FOX, OWL = b"\x89PNG a red fox", b"\x89PNG a snowy owl"


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(client: Any, bucket: str, key: str, data: bytes = FOX, **options: Any) -> s3.Put:
    return s3.put(
        client, bucket=bucket, key=key, data=data, **{"sha256": sha256_of(data), "media_type": "image/png", **options}
    )


@pytest.fixture
def client(moto_client: Any) -> Any:
    return moto_client


@pytest.fixture
def bucket(client: Any) -> str:
    return new_bucket(client)


@pytest.fixture
def scripted(scripted_client: Any) -> Any:
    return scripted_client


class TestPut:
    def test_object_is_what_was_given(self, client: Any, bucket: str):
        done = put(
            client, bucket, "a/fox.png", metadata={"title": "Füchse"}, extra_args={"StorageClass": "STANDARD_IA"}
        )
        there = client.get_object(Bucket=bucket, Key="a/fox.png")
        assert there["Body"].read() == FOX
        assert there["ContentType"] == "image/png"
        assert there["StorageClass"] == "STANDARD_IA"
        assert there["Metadata"] == {"title": "F%C3%BCchse", "sha256": sha256_of(FOX)}
        assert done == s3.Put(hashlib.md5(FOX).hexdigest(), "", True, sha256_of(FOX), len(FOX))

    def test_store_keeps_the_sha256(self, client: Any, bucket: str):
        put(client, bucket, "fox.png")
        there = client.head_object(Bucket=bucket, Key="fox.png", ChecksumMode="ENABLED")
        assert base64.b64decode(there["ChecksumSHA256"]).hex() == sha256_of(FOX)

    def test_version_is_told(self, client: Any, bucket: str):
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        done = put(client, bucket, "fox.png")
        assert done.version_id == client.head_object(Bucket=bucket, Key="fox.png")["VersionId"]

    def test_any_letters_in_the_key(self, client: Any, bucket: str):
        key = "Stühle/椅子 a+b%20&=.png"
        put(client, bucket, key)
        assert s3.read(client, bucket, key, 100) == FOX

    @pytest.mark.parametrize("conditional", ["auto", "always", "never"])
    @pytest.mark.parametrize("if_exists", ["fail", "keep", "replace"])
    def test_same_bytes_are_never_a_conflict(self, client: Any, bucket: str, conditional: Any, if_exists: Any):
        first = put(client, bucket, "fox.png", conditional=conditional)
        again = put(client, bucket, "fox.png", conditional=conditional, if_exists=if_exists)
        assert (first.created, again.created, again.kept_other) == (True, False, False)
        assert again.etag == first.etag

    def test_same_bytes_from_another_tool(self, client: Any, bucket: str):
        client.put_object(Bucket=bucket, Key="fox.png", Body=FOX)
        assert not put(client, bucket, "fox.png").created

    def test_same_bytes_in_parts_are_read_and_compared(self, client: Any, bucket: str):
        upload = {"Bucket": bucket, "Key": "fox.png"}
        upload["UploadId"] = client.create_multipart_upload(**upload)["UploadId"]
        part = client.upload_part(**upload, PartNumber=1, Body=FOX)
        parts = [{"PartNumber": 1, "ETag": part["ETag"]}]
        client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        assert client.head_object(Bucket=bucket, Key="fox.png")["ETag"].endswith('-1"')
        assert not put(client, bucket, "fox.png").created
        with pytest.raises(UploadError, match="exists already"):
            put(client, bucket, "fox.png", b"\x89PNG a RED fox")


class TestConflict:
    @pytest.fixture(autouse=True)
    def owl(self, client: Any, bucket: str) -> s3.Put:
        return put(client, bucket, "bird.png", OWL)

    @pytest.mark.parametrize("conditional", ["auto", "always", "never"])
    def test_fail_says_what_is_there_and_the_choices(self, client: Any, bucket: str, owl: s3.Put, conditional: Any):
        with pytest.raises(UploadError, match="exists already") as caught:
            put(client, bucket, "bird.png", conditional=conditional)
        assert caught.value.code == "ObjectExists"
        assert not caught.value.is_transient
        for said in (f"s3://{bucket}/bird.png", f"{len(OWL)} bytes", owl.etag, "202", "'keep'", "'replace'", "name="):
            assert said in caught.value.message
        assert s3.read(client, bucket, "bird.png", 100) == OWL

    @pytest.mark.parametrize("conditional", ["auto", "always", "never"])
    def test_keep_tells_what_was_kept(self, client: Any, bucket: str, owl: s3.Put, conditional: Any):
        done = put(client, bucket, "bird.png", if_exists="keep", conditional=conditional)
        assert done == s3.Put(owl.etag, "", False, sha256_of(OWL), len(OWL), kept_other=True)
        assert s3.read(client, bucket, "bird.png", 100) == OWL

    @pytest.mark.parametrize("conditional", ["auto", "always", "never"])
    def test_replace(self, client: Any, bucket: str, conditional: Any):
        assert put(client, bucket, "bird.png", if_exists="replace", conditional=conditional).created
        assert s3.read(client, bucket, "bird.png", 100) == FOX

    def test_other_words_are_refused_before_there_is_a_conflict(self, client: Any, bucket: str):
        with pytest.raises(InvalidRequestError, match="if_exists='overwrite' is none of fail, keep, replace"):
            put(client, bucket, "new.png", if_exists="overwrite")

    def test_replace_does_not_overwrite_a_third_writer(self, client: Any, bucket: str):
        def write_in_between(**_: Any) -> None:
            client.meta.events.unregister("before-call.s3.PutObject", write_in_between)
            client.put_object(Bucket=bucket, Key="bird.png", Body=b"third")

        client.meta.events.register("before-call.s3.PutObject", write_in_between)
        with pytest.raises(UploadError, match="at the same moment") as caught:
            put(client, bucket, "bird.png", if_exists="replace")
        assert caught.value.is_transient
        assert s3.read(client, bucket, "bird.png", 100) == b"third"


class TestTwoWriters:
    def race(self, client: Any, bucket: str, images: list[bytes], **options: Any) -> list[Any]:
        barrier = threading.Barrier(len(images))

        def write(data: bytes) -> Any:
            barrier.wait()
            try:
                return put(client, bucket, f"race-{options}.png", data, **options).created
            except UploadError as exc:
                return exc.code

        with ThreadPoolExecutor(len(images)) as pool:
            return list(pool.map(write, images))

    @pytest.mark.parametrize("conditional", ["auto", "always"])
    def test_one_creates_and_the_others_are_told(self, client: Any, bucket: str, conditional: Any):
        images = [FOX + bytes([number]) * 200_000 for number in range(6)]
        results = self.race(client, bucket, images, conditional=conditional)
        assert sorted(map(str, results)) == ["ObjectExists"] * 5 + ["True"]

    def test_one_creates_the_same_bytes_and_the_others_find_them(self, client: Any, bucket: str):
        assert sorted(self.race(client, bucket, [FOX * 10_000] * 6, conditional="always")) == [False] * 5 + [True]


class TestOnTheWire:
    """What is sent, and what is made of answers that moto does not give."""

    OK = Answer(200, headers={"ETag": '"new"'})
    ABSENT = Answer(404)

    def there(self, data: bytes, etag: str = "old") -> Answer:
        headers = {"ETag": f'"{etag}"', "Content-Length": str(len(data)), "x-amz-meta-sha256": sha256_of(data)}
        return Answer(200, headers=headers)

    def test_one_request_with_condition_and_only_our_checksum(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(self.OK)
        put(scripted, "shop", "fox.png", conditional="always")
        (request,) = scripted_store.requests
        assert request.body == FOX
        assert request.headers["if-none-match"] == "*"
        assert request.headers["content-length"] == str(len(FOX))
        checksums = {name for name in request.headers if "checksum" in name or "md5" in name or "crc" in name}
        assert checksums == {"x-amz-checksum-sha256", "x-amz-sdk-checksum-algorithm"}
        assert "aws-chunked" not in request.headers.get("content-encoding", "")
        assert "authorization" in request.headers

    @pytest.mark.parametrize(("checksum", "sent"), [("md5", {"content-md5"}), ("none", set())])
    def test_other_checksums(self, scripted: Any, scripted_store: ScriptedStore, checksum: Any, sent: set[str]):
        scripted_store.says(self.OK)
        put(scripted, "shop", "fox.png", conditional="always", checksum=checksum)
        headers = scripted_store.requests[0].headers
        assert {name for name in headers if "checksum" in name or "md5" in name} == sent

    def test_looks_first_where_the_store_may_ignore_the_condition(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(self.ABSENT, self.OK)
        assert put(scripted, "shop", "fox.png").created
        assert scripted_store.methods == ["HEAD", "PUT"]
        assert scripted_store.requests[1].headers["if-none-match"] == "*"

    def test_never_sends_no_condition(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(self.ABSENT, self.OK, self.there(OWL), self.OK)
        put(scripted, "shop", "fox.png", conditional="never")
        put(scripted, "shop", "fox.png", conditional="never", if_exists="replace")
        assert scripted_store.methods == ["HEAD", "PUT", "HEAD", "PUT"]
        assert not [
            request for request in scripted_store.requests if {"if-match", "if-none-match"} & {*request.headers}
        ]

    def test_replace_names_what_it_replaces(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(self.there(OWL), self.OK)
        put(scripted, "shop", "fox.png", if_exists="replace")
        assert scripted_store.requests[1].headers["if-match"] == '"old"'

    def test_conflicting_request_is_tried_again(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(Answer(409, "ConditionalRequestConflict"), self.ABSENT, self.OK)
        assert put(scripted, "shop", "fox.png", conditional="always").created
        assert scripted_store.methods == ["PUT", "HEAD", "PUT"]

    def test_conflicting_requests_without_end_are_transient(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(*[Answer(409, "ConditionalRequestConflict"), self.ABSENT] * 3)
        with pytest.raises(UploadError, match="at the same moment") as caught:
            put(scripted, "shop", "fox.png", conditional="always")
        assert caught.value.is_transient
        assert caught.value.code == "ConditionalRequestConflict"

    @pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument")])
    def test_store_that_knows_no_condition_is_remembered_and_logged_once(
        self, scripted: Any, scripted_store: ScriptedStore, caplog: pytest.LogCaptureFixture, status: int, code: str
    ):
        bucket = f"shop-{uuid.uuid4().hex}"
        scripted_store.says(self.ABSENT, Answer(status, code), self.OK, self.ABSENT, self.OK)
        with caplog.at_level(logging.WARNING, "n1n_prefect.s3"):
            assert put(scripted, bucket, "fox.png").created
            assert put(scripted, bucket, "owl.png", OWL).created
        assert scripted_store.methods == ["HEAD", "PUT", "PUT", "HEAD", "PUT"]
        assert ["if-none-match" in request.headers for request in scripted_store.requests][1:] == [
            True, False, False, False,
        ]  # fmt: skip
        (said,) = caplog.messages
        assert "two writers at the same moment may both write" in said

    def test_store_that_knows_no_conditional_copy_keeps_conditional_puts(
        self, scripted: Any, scripted_store: ScriptedStore
    ):
        result = b'<CopyObjectResult><ETag>"new"</ETag></CopyObjectResult>'
        copied = [self.there(FOX), self.ABSENT, Answer(501, "NotImplemented"), Answer(200, body=result)]
        scripted_store.says(*copied, self.ABSENT, self.OK)
        place = {"source_bucket": "shop", "source_key": "fox.png", "bucket": "shop", "key": "b.png"}
        assert s3.copy(scripted, **place, sha256=sha256_of(FOX), size_bytes=len(FOX)).etag == "new"
        put(scripted, "shop", "owl.png", OWL)
        conditions = ["if-none-match" in request.headers for request in scripted_store.requests]
        assert scripted_store.methods == ["HEAD", "HEAD", "PUT", "PUT", "HEAD", "PUT"]
        assert conditions == [False, False, True, False, False, True]
        assert scripted_store.requests[3].headers["x-amz-copy-source-if-match"] == '"old"'

    def test_always_does_not_give_way(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(Answer(501, "NotImplemented"))
        with pytest.raises(UploadError, match="conditional_put='never'") as caught:
            put(scripted, "shop", "fox.png", conditional="always")
        assert caught.value.code == "NotImplemented"
        assert scripted_store.methods == ["PUT"]

    def test_put_only_credentials_still_create(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(Answer(403), self.OK)
        assert put(scripted, "shop", "fox.png").created

    def test_put_only_credentials_and_a_conflict(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(Answer(403), Answer(412, "PreconditionFailed"), Answer(403))
        with pytest.raises(UploadError, match="may not look at it") as caught:
            put(scripted, "shop", "fox.png")
        assert caught.value.code == "ObjectExists"

    def test_never_overwrites_what_it_may_not_look_at(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(Answer(403))
        with pytest.raises(UploadError, match="s3:GetObject") as caught:
            put(scripted, "shop", "fox.png", conditional="never")
        assert caught.value.status_code == 403
        assert scripted_store.methods == ["HEAD"]

    def test_refused_look_leaves_the_reason_to_the_put(self, scripted: Any, scripted_store: ScriptedStore):
        # boto3 answers a 400 by asking for the bucket's region.
        scripted_store.says(
            Answer(400), Answer(400), Answer(400, "ExpiredToken", message="The provided token has expired.")
        )
        with pytest.raises(UploadError, match="session token has expired") as caught:
            put(scripted, "shop", "fox.png")
        assert caught.value.code == "ExpiredToken"

    def test_recorded_sha256_is_read_in_any_case(self, scripted: Any, scripted_store: ScriptedStore):
        headers = {"ETag": '"kms"', "Content-Length": str(len(FOX)), "X-Amz-Meta-Sha256": sha256_of(FOX)}
        scripted_store.says(Answer(200, headers=headers))
        assert not put(scripted, "shop", "fox.png").created
        assert scripted_store.methods == ["HEAD"]

    def test_recorded_sha256_is_not_believed_over_the_length(self, scripted: Any, scripted_store: ScriptedStore):
        stale = Answer(200, headers={"ETag": '"x"', "Content-Length": "9999", "x-amz-meta-sha256": sha256_of(FOX)})
        scripted_store.says(stale)
        with pytest.raises(UploadError, match="9,999 bytes"):
            put(scripted, "shop", "fox.png")


class TestRclone:
    """A store that ignores conditional puts and new checksums."""

    @pytest.fixture
    def client(self, rclone_client: Any) -> Any:
        return rclone_client

    @pytest.mark.parametrize("conditional", ["auto", "never"])
    @pytest.mark.parametrize("checksum", ["sha256", "md5", "none"])
    def test_nothing_is_overwritten_unawares(self, client: Any, bucket: str, conditional: Any, checksum: Any):
        options = {"conditional": conditional, "checksum": checksum}
        assert put(client, bucket, "ü/fox.png", metadata={"title": "Füchse"}, **options).created
        assert not put(client, bucket, "ü/fox.png", **options).created
        with pytest.raises(UploadError) as caught:
            put(client, bucket, "ü/fox.png", OWL, **options)
        assert caught.value.code == "ObjectExists"
        assert put(client, bucket, "ü/fox.png", OWL, if_exists="keep", **options).kept_other
        assert s3.read(client, bucket, "ü/fox.png", 100) == FOX
        assert put(client, bucket, "ü/fox.png", OWL, if_exists="replace", **options).created
        assert s3.read(client, bucket, "ü/fox.png", 100) == OWL

    def test_always_relies_on_the_store(self, client: Any, bucket: str):
        # The day this fails, rclone obeys the condition and the documentation may say so.
        put(client, bucket, "fox.png")
        assert put(client, bucket, "fox.png", OWL, conditional="always").created

    def test_md5_guards_the_way(self, rclone_server: S3Server, bucket: str):
        with closing(rclone_server.client()) as client:
            client.meta.events.register("before-sign.s3.PutObject", _spoil)
            with pytest.raises(UploadError, match="did not arrive as they were sent") as caught:
                put(client, bucket, "fox.png", checksum="md5")
        assert caught.value.is_transient

    def test_copy(self, client: Any, bucket: str):
        put(client, bucket, "fox.png")
        place = {"source_bucket": bucket, "source_key": "fox.png", "bucket": bucket, "key": "b/fox.png"}
        assert s3.copy(client, **place, sha256=sha256_of(FOX), size_bytes=len(FOX)).created
        assert s3.read(client, bucket, "b/fox.png", 100) == FOX

    def test_wrong_secret(self, rclone_server: S3Server, bucket: str):
        with (
            closing(rclone_server.client(aws_secret_access_key="another-secret-key")) as client,
            pytest.raises(UploadError, match="aws_secret_access_key") as caught,
        ):
            put(client, bucket, "fox.png")
        assert caught.value.code == "SignatureDoesNotMatch"
        assert "another-secret-key" not in caught.value.message

    def test_wrong_key(self, rclone_server: S3Server, bucket: str):
        with (
            closing(rclone_server.client(aws_access_key_id="nobodys-access-key")) as client,
            pytest.raises(UploadError, match="does not know this access key") as caught,
        ):
            put(client, bucket, "fox.png")
        assert caught.value.code == "InvalidAccessKeyId"

    def test_missing_bucket(self, client: Any):
        with pytest.raises(UploadError, match="there is no bucket 'nowhere'") as caught:
            put(client, "nowhere", "fox.png")
        assert caught.value.code == "NoSuchBucket"


def _spoil(request: Any, **_: Any) -> None:
    request.data = b"#" * len(FOX)


class TestCopy:
    @pytest.fixture(autouse=True)
    def fox(self, client: Any, bucket: str) -> s3.Put:
        return put(client, bucket, "fox.png", metadata={"title": "Füchse"})

    def copy(self, client: Any, bucket: str, key: str = "b/fox.png", **options: Any) -> s3.Put:
        usual = {"source_bucket": bucket, "source_key": "fox.png", "bucket": bucket, "key": key}
        return s3.copy(client, **{**usual, "sha256": sha256_of(FOX), "size_bytes": len(FOX), **options})

    def test_bytes_type_and_metadata_come_along(self, client: Any, bucket: str, fox: s3.Put):
        done = self.copy(client, bucket)
        there = client.get_object(Bucket=bucket, Key="b/fox.png")
        assert there["Body"].read() == FOX
        assert there["ContentType"] == "image/png"
        assert there["Metadata"] == {"title": "F%C3%BCchse", "sha256": sha256_of(FOX)}
        assert done == s3.Put(fox.etag, "", True, sha256_of(FOX), len(FOX))

    def test_into_another_bucket(self, client: Any, bucket: str):
        other = new_bucket(client)
        assert self.copy(client, other, source_bucket=bucket).created
        assert s3.read(client, other, "b/fox.png", 100) == FOX

    def test_metadata_is_added_to_the_sources(self, client: Any, bucket: str):
        self.copy(client, bucket, metadata={"Season": "Frühling"}, extra_args={"StorageClass": "STANDARD_IA"})
        there = client.head_object(Bucket=bucket, Key="b/fox.png")
        assert there["Metadata"] == {"title": "F%C3%BCchse", "season": "Fr%C3%BChling", "sha256": sha256_of(FOX)}
        assert (there["ContentType"], there["StorageClass"]) == ("image/png", "STANDARD_IA")

    def test_again_and_onto_itself_creates_nothing(self, client: Any, bucket: str):
        self.copy(client, bucket)
        assert not self.copy(client, bucket).created
        assert not self.copy(client, bucket, "fox.png").created

    def test_conflict_three_ways(self, client: Any, bucket: str):
        put(client, bucket, "b/fox.png", OWL)
        with pytest.raises(UploadError) as caught:
            self.copy(client, bucket)
        assert caught.value.code == "ObjectExists"
        assert self.copy(client, bucket, if_exists="keep").kept_other
        assert s3.read(client, bucket, "b/fox.png", 100) == OWL
        assert self.copy(client, bucket, if_exists="replace").created
        assert s3.read(client, bucket, "b/fox.png", 100) == FOX

    def test_source_that_changed_since(self, client: Any, bucket: str):
        put(client, bucket, "fox.png", b"\x89PNG a RED fox", if_exists="replace")
        with pytest.raises(UploadError, match="no longer the image") as caught:
            self.copy(client, bucket)
        assert caught.value.code == "SourceChanged"

    def test_source_that_was_replaced_with_a_false_record(self, client: Any, bucket: str, fox: s3.Put):
        forged = FOX[:-1] + b"!"
        assert self.copy(client, bucket, "before.png", etag=fox.etag).created
        metadata = client.head_object(Bucket=bucket, Key="fox.png")["Metadata"]
        client.put_object(Bucket=bucket, Key="fox.png", Body=forged, Metadata=metadata)
        with pytest.raises(UploadError, match="no longer the image"):
            self.copy(client, bucket, etag=fox.etag)

    def test_source_that_is_gone(self, client: Any, bucket: str):
        with pytest.raises(UploadError, match=f"copy from s3://{bucket}/gone.png.* no such object"):
            self.copy(client, bucket, source_key="gone.png")


class TestRead:
    def test_limit_is_inclusive(self, client: Any, bucket: str):
        put(client, bucket, "fox.png")
        assert s3.read(client, bucket, "fox.png", len(FOX)) == FOX
        with pytest.raises(SourceError, match=rf"{len(FOX)} bytes and at most {len(FOX) - 1}"):
            s3.read(client, bucket, "fox.png", len(FOX) - 1)

    def test_too_large_is_not_read(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(Answer(200, headers={"Content-Length": "5000000000"}, breaks_off=True))
        with pytest.raises(SourceError, match="5,000,000,000 bytes"):
            s3.read(scripted, "shop", "huge.png", 100)

    def test_missing_object(self, client: Any, bucket: str):
        with pytest.raises(SourceError, match="there is no such object") as caught:
            s3.read(client, bucket, "gone.png", 100)
        assert (caught.value.code, caught.value.charged) == ("NoSuchKey", "no")

    def test_missing_bucket(self, client: Any):
        with pytest.raises(SourceError, match="there is no bucket 'nowhere-at-all'"):
            s3.read(client, "nowhere-at-all", "fox.png", 100)

    def test_broken_off(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(Answer(200, headers={"Content-Length": "50"}, body=b"half", breaks_off=True))
        with pytest.raises(SourceError, match="broke off") as caught:
            s3.read(scripted, "shop", "fox.png", 100)
        assert caught.value.is_transient


class TestMakeClient:
    def test_settings(self):
        client = s3.make_client(aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-west-1")
        config = client.meta.config
        assert s3.is_aws(client.meta.endpoint_url)
        assert config.retries == {"mode": "standard", "total_max_attempts": 3}
        assert (config.connect_timeout, config.read_timeout, config.max_pool_connections) == (10, 60, 32)
        assert config.request_checksum_calculation == config.response_checksum_validation == "when_required"
        assert config.signature_version == "s3v4"
        client.close()

    @pytest.mark.parametrize(
        ("endpoint", "signed"),
        [("https://store.example", "UNSIGNED-PAYLOAD"), ("http://store.example", sha256_of(FOX))],
    )
    def test_body_is_hashed_again_only_without_tls(self, endpoint: str, signed: str):
        sent: list[Any] = []

        def answer(request: Any, **_: Any) -> AWSResponse:
            sent.append(request.headers)
            return AWSResponse(request.url, 200, {"ETag": '"e"'}, HTTPResponse(BytesIO(), preload_content=False))

        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        with closing(s3.make_client(**keys, endpoint_url=endpoint)) as client:
            client.meta.events.register("before-send.s3.PutObject", answer)
            assert put(client, "shop", "fox.png", conditional="always").etag == "e"
        assert sent[0]["X-Amz-Content-SHA256"].decode() == signed

    def test_tries_again_by_itself(self, scripted_store: ScriptedStore):
        scripted_store.says(Answer(503, "SlowDown"), Answer(200, headers={"ETag": '"e"'}))
        with closing(scripted_store.server.client(max_attempts=2)) as client:
            assert put(client, "shop", "fox.png", conditional="always").created

    @pytest.mark.parametrize(
        ("endpoint", "is_aws"),
        [("https://s3.eu-west-1.amazonaws.com", True), ("https://bucket.vpce-1.s3.eu-west-1.vpce.amazonaws.com", True),
         ("https://s3.cn-north-1.amazonaws.com.cn", True), ("https://oss-cn-hangzhou.aliyuncs.com", False),
         ("https://amazonaws.com.evil.example", False), ("http://127.0.0.1:9000", False)],
    )  # fmt: skip
    def test_knows_aws_by_its_host(self, endpoint: str, is_aws: bool):
        assert s3.is_aws(endpoint) is is_aws

    def test_module_is_light(self):
        check = "import sys, n1n_prefect.s3; print([m for m in ('boto3', 'botocore', 'PIL') if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


@pytest.fixture(params=["moto", "rclone"])
def anywhere(request: pytest.FixtureRequest) -> Any:
    """A client of either server: one that may obey conditions, and one that ignores them."""
    return request.getfixturevalue(f"{request.param}_client")


def delete(client: Any, bucket: str, key: str, data: bytes = FOX, **options: Any) -> bool:
    return s3.delete(client, bucket=bucket, key=key, sha256=sha256_of(data), size_bytes=len(data), **options)


class TestDelete:
    def test_removes_the_image_once(self, anywhere: Any):
        bucket = new_bucket(anywhere)
        put(anywhere, bucket, "fox.png", checksum="none")
        assert delete(anywhere, bucket, "fox.png")
        assert not delete(anywhere, bucket, "fox.png")

    @pytest.mark.parametrize("other", [OWL, FOX[:-1] + b"!"])
    def test_leaves_what_another_put_there(self, anywhere: Any, other: bytes):
        bucket = new_bucket(anywhere)
        put(anywhere, bucket, "fox.png", other, checksum="none")
        with pytest.raises(UploadError, match="holds something else by now") as caught:
            delete(anywhere, bucket, "fox.png")
        assert caught.value.code == "ObjectChanged"
        assert s3.read(anywhere, bucket, "fox.png", 100) == other

    def test_reads_what_does_not_say_what_it_is(self, anywhere: Any):
        bucket = new_bucket(anywhere)
        for key, data in (("fox.png", FOX), ("other.png", FOX[:-1] + b"!")):
            anywhere.put_object(Bucket=bucket, Key=key, Body=data)
        assert delete(anywhere, bucket, "fox.png")
        with pytest.raises(UploadError, match="holds something else"):
            delete(anywhere, bucket, "other.png")

    def test_of_several_versions_only_ours_goes(self, client: Any, bucket: str):
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        put(client, bucket, "fox.png", OWL)
        ours = put(client, bucket, "fox.png", if_exists="replace")
        assert delete(client, bucket, "fox.png", version_id=ours.version_id)
        assert s3.read(client, bucket, "fox.png", 100) == OWL
        assert not delete(client, bucket, "fox.png", version_id=ours.version_id)

    def test_names_the_object_that_was_looked_at(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(_head(FOX), Answer(204))
        assert delete(scripted, "shop", "fox.png")
        assert scripted_store.methods == ["HEAD", "DELETE"]
        assert scripted_store.requests[1].headers["if-match"] == '"e1"'

    def test_that_was_changed_in_between_is_left_alone(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(_head(FOX), Answer(412, "PreconditionFailed"))
        with pytest.raises(UploadError, match="changed at the same moment, and was left alone"):
            delete(scripted, "shop", "fox.png")

    def test_a_store_without_conditions_is_asked_plainly(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(_head(FOX), Answer(501, "NotImplemented"), Answer(204))
        assert delete(scripted, "shop", "fox.png")
        assert "if-match" not in scripted_store.requests[2].headers

    def test_says_what_to_grant(self, scripted: Any, scripted_store: ScriptedStore):
        scripted_store.says(_head(FOX), Answer(403, "AccessDenied"))
        with pytest.raises(UploadError, match=r"Could not delete s3://shop/fox\.png.*s3:DeleteObject"):
            delete(scripted, "shop", "fox.png")


def _head(data: bytes) -> Answer:
    return Answer(headers={"Content-Length": str(len(data)), "ETag": '"e1"', "x-amz-meta-sha256": sha256_of(data)})
