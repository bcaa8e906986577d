import asyncio
import dataclasses
import hashlib
import json
import logging
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task, unmapped
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentCreate, BlockSchemaCreate
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

from n1n_prefect import blocks
from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.errors import InvalidRequestError, SourceError, UploadError
from n1n_prefect.images import GeneratedImage, UploadedImage
from n1n_prefect.pricing import Price
from tests.s3_servers import Answer, ScriptedStore, new_bucket

FOX, OWL = b"\x89PNG a red fox", b"\x89PNG a snowy owl"
KEY = "sk-0123456789abcdef"
SECRET = "wJalrXUtnFEMI/K7MDENG"
ROLE = "arn:aws:iam::123456789012:role/images"


def image_of(data: bytes = FOX, **fields: Any) -> GeneratedImage:
    usual = GeneratedImage(
        uri="file:///staged/x",
        sha256=hashlib.sha256(data).hexdigest(),
        media_type="image/png",
        width=1024,
        height=768,
        size_bytes=len(data),
        model="gemini-2.5-flash-image",
        request_key="rk-1",
        aspect_ratio="4:3",
        prompt_excerpt="A secret campaign with a red fox",
        estimated_cost_usd=0.039,
    )
    return dataclasses.replace(usual, **fields)


class _Standard(BlockStandardTestSuite):
    def test_has_a_valid_image(self, block: type[Block]) -> None:
        from PIL import Image

        assert str(block._logo_url).endswith("/main/docs/logo.png")
        with Image.open(Path(__file__).parent.parent / "docs" / "logo.png") as logo:
            assert logo.size == (256, 256)
            assert logo.format == "PNG"

    def test_is_told_apart_from_others(self, block: type[Block]) -> None:
        assert block.get_block_type_slug() in ("n1n-credentials", "s3-image-location")
        assert str(block._documentation_url).startswith("https://github.com/n1n-prefect/n1n-prefect#")

    def test_ui_shows_no_tabs_and_masks_secrets(self, block: type[Block]) -> None:
        schema = block.model_json_schema()
        assert "anyOf" not in json.dumps(schema["properties"])
        secrets = {name for name, field in schema["properties"].items() if field.get("format") == "password"}
        assert secrets == set(schema["secret_fields"])
        assert secrets


class TestN1nCredentialsStandard(_Standard):
    @pytest.fixture
    def block(self) -> type[N1nCredentials]:
        return N1nCredentials


class TestS3LocationStandard(_Standard):
    @pytest.fixture
    def block(self) -> type[S3Location]:
        return S3Location


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestThroughTheEngine:
    def test_save_and_load(self):
        saved = N1nCredentials(api_key=KEY, prices={"m": Price(1, 2, 3)}, account="tenant-a")
        saved.save("shop", overwrite=True)
        loaded = N1nCredentials.load("shop")
        assert loaded.model_dump(context={"include_secrets": True}) == {
            **saved.model_dump(context={"include_secrets": True}),
            "_block_document_id": loaded._block_document_id,
            "_block_document_name": "shop",
            "_is_anonymous": False,
            "block_type_slug": "n1n-credentials",
        }
        assert isinstance(Block.load("n1n-credentials/shop"), N1nCredentials)

    def test_assign_save_and_load(self):
        N1nCredentials(api_key=KEY).save("assigned", overwrite=True)
        loaded = N1nCredentials.load("assigned")
        loaded.account, loaded.api_key = "tenant-b", "sk-rotated-0123456789"
        with pytest.raises(InvalidRequestError, match="base_url"):
            loaded.base_url = "http://evil.example"
        loaded.save("assigned", overwrite=True)
        again = N1nCredentials.load("assigned", validate=False)
        assert (again.account, again.base_url) == ("tenant-b", "https://api.n1n.ai")
        assert again.api_key.get_secret_value() == "sk-rotated-0123456789"

    def test_save_and_load_a_location(self):
        S3Location(bucket="shop", aws_access_key_id="AKIA1", aws_secret_access_key=SECRET).save("shop", overwrite=True)
        loaded = S3Location.load("shop")
        assert loaded.aws_secret_access_key.get_secret_value() == SECRET
        assert loaded.uri_of("a.png") == "s3://shop/a.png"

    def test_save_and_load_a_role(self):
        fields = {
            "assume_role_external_id": "x-1",
            "assume_role_options": {"PolicyArns": [{"arn": "arn:aws:iam::1:p"}]},
        }
        S3Location(bucket="shop", profile_name="shop", assume_role_arn=ROLE, ca_bundle="/etc/ours.pem", **fields).save(
            "shop-of-a-role", overwrite=True
        )
        loaded = S3Location.load("shop-of-a-role")
        assert (loaded.profile_name, loaded.assume_role_arn, loaded.ca_bundle) == ("shop", ROLE, "/etc/ours.pem")
        assert loaded.assume_role_options == fields["assume_role_options"]
        assert pickle.loads(pickle.dumps(loaded)) == loaded

    def test_a_location_saved_by_an_earlier_release(self):
        """Its schema and its document know no profile, no role and no authority."""
        S3Location.register_type_and_schema()
        new = ("profile_name", "assume_role", "verify", "ca_bundle")
        schema = S3Location._to_block_schema(block_type_id=S3Location._block_type_id)
        fields = {**schema.fields, "properties": {
            name: field for name, field in schema.fields["properties"].items() if not name.startswith(new)
        }}  # fmt: skip
        with get_client(sync_client=True) as client:
            old = client.create_block_schema(
                BlockSchemaCreate(fields=fields, block_type_id=schema.block_type_id, version="0.1.0")
            )
            client.create_block_document(
                BlockDocumentCreate(
                    name="saved-long-ago",
                    data={"bucket": "shop", "aws_access_key_id": "AKIA1", "aws_secret_access_key": SECRET},
                    block_schema_id=old.id,
                    block_type_id=old.block_type_id,
                )
            )
        loaded = S3Location.load("saved-long-ago")
        assert loaded.aws_secret_access_key.get_secret_value() == SECRET
        assert dict(loaded) == dict(S3Location(bucket="shop", aws_access_key_id="AKIA1", aws_secret_access_key=SECRET))

    def test_as_parameters_of_flow_and_tasks(self):
        @task
        def length(prompt: str, credentials: N1nCredentials) -> int:
            return len(prompt) + len(credentials.api_key.get_secret_value())

        @flow
        def lengths(credentials: N1nCredentials, destination: S3Location) -> list[int]:
            futures = length.map(["a", "bc"], credentials=unmapped(credentials))
            return [*futures.result(), length("def", credentials), length.submit("ghij", credentials).result()]

        location = S3Location(bucket="shop")
        assert lengths(N1nCredentials(api_key=KEY), location) == [len(KEY) + extra for extra in (1, 2, 3, 4)]

    def test_forgotten_unmapped_is_told(self):
        @task
        def length(prompt: str, credentials: N1nCredentials) -> int:
            return 0

        @flow
        def lengths() -> None:
            length.map(["a", "bc"], credentials=N1nCredentials(api_key=KEY))

        with pytest.raises(InvalidRequestError, match="wrap it in unmapped"):
            lengths()


class TestN1nCredentials:
    def test_defaults(self):
        credentials = N1nCredentials(api_key=KEY)
        assert credentials.base_url == "https://api.n1n.ai"
        assert (credentials.timeout_seconds, credentials.account, credentials.max_in_flight) == (300, "default", 8)
        assert (credentials.concurrency_limit, credentials.price_factor, credentials.prices) == ("", 1.0, {})

    def test_prices_become_prices(self):
        given = {"m": {"input": 1, "text": 2, "image": 3, "per_image": 0.04}}
        assert N1nCredentials(api_key=KEY, prices=given).prices == {"m": Price(1, 2, 3, 0.04)}

    @pytest.mark.parametrize(
        ("key", "said"),
        [
            ("", "it is empty"),
            ("**********", "Pass it by reference"),
            ("*", "Pass it by reference"),
            (f"Bearer {KEY}", "starts with 'Bearer'"),
            (f"bearer {KEY}", "starts with 'Bearer'"),
            (f"{KEY}\n", "line breaks"),
            (f" {KEY}", "spaces"),
            ("sk-01234 56789", "spaces"),
            ("sk-0123456\u00a0", "letters that no key has"),
            ("sk-\u200b0123456", "letters that no key has"),
            (f'"{KEY}"', "without them"),
            ("$N1N_API_KEY", "give the value"),
        ],
    )
    def test_unusable_key_is_refused_and_not_repeated(self, key: str, said: str):
        with pytest.raises(InvalidRequestError, match=said) as caught:
            N1nCredentials(api_key=key)
        assert "api_key" in caught.value.message
        assert caught.value.__cause__ is caught.value.__context__ is None
        assert len(key) < 5 or key.strip() not in caught.value.message

    def test_missing_key(self):
        with pytest.raises(InvalidRequestError, match="api_key: Field required"):
            N1nCredentials()

    def test_pydantics_own_error_does_not_repeat_the_key(self):
        with pytest.raises(ValidationError) as caught:
            N1nCredentials.model_validate({"api_key": f"{KEY}\n"})
        assert KEY not in str(caught.value)
        assert "line breaks" in str(caught.value)

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("https://api.n1n.ai/", "https://api.n1n.ai"),
            (" https://api.n1n.ai/v1/ ", "https://api.n1n.ai"),
            ("https://api.n1n.ai/v1beta", "https://api.n1n.ai"),
            ("https://gateway.example/n1n", "https://gateway.example/n1n"),
            ("http://127.0.0.1:8123", "http://127.0.0.1:8123"),
            ("http://localhost:8123/", "http://localhost:8123"),
            ("http://[::1]:8123", "http://[::1]:8123"),
        ],
    )
    def test_base_url(self, given: str, kept: str):
        assert N1nCredentials(api_key=KEY, base_url=given).base_url == kept

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("http://api.n1n.ai", "send the key in clear to 'api.n1n.ai'"),
            ("http://localhost.evil.example", "in clear"),
            ("http://127.0.0.1.evil.example", "in clear"),
            ("http://192.168.0.7", "in clear"),
            ("api.n1n.ai", "write https://host"),
            ("ftp://api.n1n.ai", "write https://host"),
            ("https://", "write https://host"),
            ("", "write https://host"),
            ("https://api.n1n.ai/ v1", "write https://host"),
            ("https://api.n1n.ai:port", "is no address"),
            ("https://[::1", "is no address"),
            ("https://api.n1n.ai/?key=x", "query"),
            ("https://api.n1n.ai/#top", "fragment"),
            (f"https://user:{SECRET}@api.n1n.ai", "credentials in it"),
            (f"user:{SECRET}@api.n1n.ai", "credentials in it"),
            (KEY, "write https://host"),
            ("https://api..n1n.ai", "no host that can be looked up"),
            ("https://\ud800", "is no address"),
        ],
    )
    def test_unusable_base_url(self, given: str, said: str):
        with pytest.raises(InvalidRequestError, match=said) as caught:
            N1nCredentials(api_key=KEY, base_url=given)
        assert SECRET not in caught.value.message
        assert KEY not in caught.value.message

    @pytest.mark.parametrize(
        "fields",
        [
            {"timeout_seconds": 0},
            {"timeout_seconds": float("inf")},
            {"timeout_seconds": "soon"},
            {"timeout_seconds": 1e300},
            {"max_in_flight": 0},
            {"price_factor": -0.1},
            {"price_factor": float("nan")},
            {"account": ""},
            {"prices": {"m": 3}},
            {"prices": {"m": {"input": -1}}},
        ],
    )
    def test_unusable_numbers_are_named(self, fields: dict[str, Any]):
        with pytest.raises(InvalidRequestError, match=f"N1nCredentials: {next(iter(fields))}"):
            N1nCredentials(api_key=KEY, **fields)

    def test_clients(self):
        credentials = N1nCredentials(api_key=KEY, base_url="http://127.0.0.1:9", timeout_seconds=7)
        with credentials.get_client() as client:
            assert (client.base_url, client.timeout_seconds) == ("http://127.0.0.1:9", 7)
        asyncio_client = credentials.get_async_client()
        assert (asyncio_client.base_url, asyncio_client.timeout_seconds) == ("http://127.0.0.1:9", 7)
        asyncio.run(asyncio_client.close())


class TestS3Location:
    @pytest.mark.parametrize(
        ("prefix", "kept"), [("", ""), ("/", ""), ("/a//b/", "a/b"), (" a/b ", "a/b"), ("Stühle/椅子", "Stühle/椅子")]
    )
    def test_prefix(self, prefix: str, kept: str):
        assert S3Location(bucket="shop", prefix=prefix).prefix == kept

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"bucket": ""}, "bucket: '' is no bucket's name"),
            ({"bucket": "s3://shop/summer/2026"}, "write bucket='shop' and prefix='summer/2026'"),
            ({"bucket": "shop/summer"}, "write bucket='shop' and prefix='summer'"),
            ({"bucket": "s3://shop"}, "write bucket='shop'"),
            ({"bucket": "https://shop.s3.amazonaws.com"}, "bucket: "),
            ({"bucket": "my shop"}, "is no bucket's name"),
            ({"prefix": "s3://shop/a"}, "is an address"),
            ({"prefix": "../other"}, "'..'"),
            ({"prefix": "a\nb"}, "control characters"),
            ({"prefix": "a/{date}"}, "belong in key_template"),
            ({"endpoint_url": "minio:9000"}, "write https://host"),
            ({"endpoint_url": "https://minio..example"}, "no host that can be looked up"),
            ({"endpoint_url": f"https://me:{SECRET}@minio"}, "credentials in it"),
            ({"key_template": "{prefix}/{sku}"}, "{sku}"),
            ({"key_template": "{prefix}/{date}"}, "the same key"),
            ({"key_template": ""}, "the same key"),
            ({"key_template": "../{sha256}"}, "'..'"),
            ({"aws_access_key_id": "AKIA1"}, "go together"),
            ({"aws_secret_access_key": SECRET}, "go together"),
            ({"aws_session_token": SECRET}, "without aws_access_key_id"),
            ({"aws_access_key_id": "AKIA1", "aws_secret_access_key": "****"}, "Pass it by reference"),
            ({"aws_access_key_id": "AKIA1", "aws_secret_access_key": f"{SECRET}\n"}, "line breaks"),
            ({"addressing_style": "dns"}, "'auto', 'path' or 'virtual'"),
            ({"conditional_put": "sometimes"}, "'auto', 'always' or 'never'"),
            ({"checksum": "crc32"}, "'sha256', 'md5' or 'none'"),
            ({"server_side_encryption": "yes"}, "'AES256' or 'aws:kms'"),
            ({"kms_key_id": "k"}, "aws:kms"),
            (
                {"profile_name": "shop", "aws_access_key_id": "AKIA1", "aws_secret_access_key": SECRET},
                "leave the keys empty to use the profile's, or leave profile_name empty",
            ),
            ({"assume_role_arn": "images"}, "write arn:aws:iam::123456789012:role/NAME"),
            ({"assume_role_arn": "arn:aws:iam::123456789012:user/images"}, "'arn:aws:iam::123456789012:user/images'"),
            ({"assume_role_external_id": "x"}, "give assume_role_arn as well"),
            ({"assume_role_options": {"Policy": "{}"}}, "give assume_role_arn as well"),
            ({"assume_role_arn": ROLE, "assume_role_duration_seconds": 60}, "900"),
            ({"assume_role_arn": ROLE, "assume_role_session_name": "two words"}, "assume_role_session_name"),
            ({"assume_role_arn": ROLE, "assume_role_options": {"ExternalId": "x"}}, "give it there"),
            ({"assume_role_arn": ROLE, "assume_role_options": {"Polcy": "x"}}, "'Polcy' is none of Policy, "),
            ({"ca_bundle": "/etc/ours.pem", "verify": False}, "leave verify on"),
            ({"tags": {str(number): "x" for number in range(11)}}, "tags: "),
        ],
    )
    def test_unusable_fields(self, fields: dict[str, Any], said: str):
        with pytest.raises(InvalidRequestError, match=re.escape(said)) as caught:
            S3Location(**{"bucket": "shop", **fields})
        assert SECRET not in caught.value.message

    def test_template_with_a_name_is_fine(self):
        location = S3Location(bucket="shop", prefix="p", key_template="{prefix}/{name}/{date}.{extension}")
        day = datetime.now(timezone.utc).date().isoformat()
        key = location.key_for(image_of(media_type="image/jpeg"), name="SKU-1")
        assert key in (f"p/SKU-1/{day}.jpg", f"p/SKU-1/{datetime.now(timezone.utc).date().isoformat()}.jpg")

    def test_key_is_used_as_it_stands(self):
        assert S3Location(bucket="shop", prefix="p").key_for(image_of(), key="else/where.png") == "else/where.png"

    def test_name_and_key_together(self):
        with pytest.raises(InvalidRequestError, match="both given"):
            S3Location(bucket="shop", key_template="{name}").key_for(image_of(), name="a", key="b")


class TestClientOfALocation:
    def test_one_for_equal_locations_and_all_threads(self, s3_location: S3Location):
        equal = S3Location(**dict(s3_location))
        with ThreadPoolExecutor(8) as pool:
            clients = set(pool.map(lambda location: location.get_client(), [s3_location, equal] * 8))
        assert len(clients) == 1

    @pytest.mark.parametrize(
        "fields",
        [
            {"aws_secret_access_key": "other"},
            {"region_name": "eu-west-1"},
            {"verify": False},
            {"ca_bundle": __file__},
            {"assume_role_arn": ROLE},
            {"assume_role_arn": ROLE, "assume_role_session_name": "another"},
            {"assume_role_arn": ROLE, "assume_role_external_id": "x-1"},
            {"assume_role_arn": ROLE, "assume_role_duration_seconds": 900},
            {"assume_role_arn": ROLE, "assume_role_options": {"Tags": [{"Key": "team", "Value": "pim"}]}},
        ],
    )
    def test_another_for_other_keys_or_region(self, s3_location: S3Location, fields: dict[str, Any]):
        other = S3Location(**{**dict(s3_location), **fields})
        assert other.get_client() is not s3_location.get_client()
        assert other.get_client() is S3Location(**dict(other)).get_client()

    def test_another_in_another_process(self, s3_location: S3Location, monkeypatch: pytest.MonkeyPatch):
        before = s3_location.get_client()
        monkeypatch.setattr(blocks.os, "getpid", lambda: -1)
        assert s3_location.get_client() is not before

    def test_fields_reach_boto(self):
        location = S3Location(
            bucket="shop",
            aws_access_key_id="AKIA1",
            aws_secret_access_key=SECRET,
            aws_session_token="token",
            region_name="eu-west-1",
            addressing_style="virtual",
        )
        client = location.get_client()
        assert client.meta.region_name == "eu-west-1"
        assert client.meta.config.s3["addressing_style"] == "virtual"
        found = client._get_credentials()
        assert (found.access_key, found.secret_key, found.token) == ("AKIA1", SECRET, "token")

    def test_profile_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
        with pytest.raises(UploadError, match="no-such-profile") as caught:
            S3Location(bucket="shop", region_name="ap-south-2").get_client()
        assert caught.value.code == "ProfileNotFound"
        with pytest.raises(UploadError, match=r"correct profile_name, .*another-one"):
            S3Location(bucket="shop", profile_name="another-one").get_client()

    def test_bundle_that_is_not_there(self):
        with pytest.raises(InvalidRequestError, match=r"ca_bundle='/no/such.pem' is no file on this machine"):
            S3Location(bucket="shop", ca_bundle="/no/such.pem").get_client()


class TestPutImage:
    def test_object_tells_how_it_came_about(self, s3_location: S3Location):
        image = image_of(model_version="v7", response_id="résp", image_size="1K")
        uploaded = s3_location.put_image(FOX, image=image, metadata={"Season": "Frühling"})
        assert uploaded == UploadedImage(
            bucket=s3_location.bucket,
            key=f"products/{image.sha256}.png",
            sha256=image.sha256,
            media_type="image/png",
            width=1024,
            height=768,
            size_bytes=len(FOX),
            etag=hashlib.md5(FOX).hexdigest(),
            model="gemini-2.5-flash-image",
            request_key="rk-1",
            estimated_cost_usd=0.039,
            original=image,
        )
        there = s3_location.get_client().get_object(Bucket=uploaded.bucket, Key=uploaded.key)
        assert there["Body"].read() == FOX
        assert there["ContentType"] == "image/png"
        assert there["Metadata"] == {
            "sha256": image.sha256,
            "season": "Fr%C3%BChling",
            "n1n-model": "gemini-2.5-flash-image",
            "n1n-model-version": "v7",
            "n1n-request-key": "rk-1",
            "n1n-response-id": "r%C3%A9sp",
            "n1n-aspect-ratio": "4:3",
            "n1n-image-size": "1K",
            "n1n-width": "1024",
            "n1n-height": "768",
            "n1n-media-type": "image/png",
        }

    def test_name_key_and_storage_options(self, s3_location: S3Location):
        fields = {"key_template": "{name}.{extension}", "tags": {"team": "PIM + shop"}, "checksum": "md5"}
        options = {"storage_class": "STANDARD_IA", "server_side_encryption": "AES256"}
        location = S3Location(**{**dict(s3_location), **fields, **options})
        assert location.put_image(FOX, image=image_of(), name="Stühle/A 1").key == "Stühle/A 1.png"
        place = {"Bucket": location.bucket, "Key": "Stühle/A 1.png"}
        there = location.get_client().head_object(**place)
        assert (there["StorageClass"], there["ServerSideEncryption"]) == ("STANDARD_IA", "AES256")
        tags = location.get_client().get_object_tagging(**place)["TagSet"]
        assert tags == [{"Key": "team", "Value": "PIM + shop"}]

    def test_again_is_there_already(self, s3_location: S3Location):
        first = s3_location.put_image(FOX, image=image_of())
        again = s3_location.put_image(FOX, image=image_of())
        assert (first.created, again.created) == (True, False)
        assert dataclasses.replace(again, created=True) == first

    def test_conflict_three_ways(self, s3_location: S3Location, caplog: pytest.LogCaptureFixture):
        s3_location.put_image(OWL, image=image_of(OWL), key="bird.png")
        with pytest.raises(UploadError, match="if_exists='keep'"):
            s3_location.put_image(FOX, image=image_of(), key="bird.png")
        with caplog.at_level(logging.WARNING, "n1n_prefect.blocks"):
            kept = s3_location.put_image(FOX, image=image_of(), key="bird.png", if_exists="keep")
        assert (kept.sha256, kept.size_bytes, kept.created) == (image_of(OWL).sha256, len(OWL), False)
        assert (kept.media_type, kept.width, kept.height) == ("", 0, 0)
        assert "bird.png holds another image and was kept" in caplog.text
        replaced = s3_location.put_image(FOX, image=image_of(), key="bird.png", if_exists="replace")
        assert (replaced.sha256, replaced.created) == (image_of().sha256, True)
        assert s3_location.read(s3_location.bucket, "bird.png", 100) == FOX

    def test_bytes_of_another_length(self, s3_location: S3Location):
        with pytest.raises(InvalidRequestError, match="3 bytes were given for an image of 17"):
            s3_location.put_image(b"fox", image=image_of(size_bytes=17))

    @pytest.mark.parametrize("key", ["sha256", "SHA256", "n1n-model", "N1N-own"])
    def test_our_own_metadata_keys_are_ours(self, s3_location: S3Location, key: str):
        with pytest.raises(InvalidRequestError, match="is one of ours"):
            s3_location.put_image(FOX, image=image_of(), metadata={key: "x"})

    def test_never_mode_reaches_the_store(self, scripted_store: ScriptedStore):
        location = scripted_store.server.location("shop", conditional_put="never", checksum="none")
        scripted_store.says(Answer(404), Answer(200, headers={"ETag": '"e"'}))
        location.put_image(FOX, image=image_of())
        assert scripted_store.methods == ["HEAD", "PUT"]
        assert not {"if-none-match", "x-amz-checksum-sha256", "content-md5"} & {*scripted_store.requests[1].headers}


class TestCopyImage:
    def test_keeps_bytes_type_and_metadata(self, s3_location: S3Location, moto_client: Any):
        uploaded = s3_location.put_image(FOX, image=image_of(), metadata={"season": "spring"})
        approved = S3Location(**{**dict(s3_location), "bucket": new_bucket(moto_client), "prefix": "approved"})
        copied = approved.copy_image(uploaded)
        expected = {"bucket": approved.bucket, "key": f"approved/{uploaded.sha256}.png"}
        assert copied == dataclasses.replace(uploaded, **expected)
        place = {"Bucket": copied.bucket, "Key": copied.key}
        there, source = (
            approved.get_client().head_object(**place),
            moto_client.head_object(Bucket=uploaded.bucket, Key=uploaded.key),
        )
        assert there["Metadata"] == source["Metadata"]
        assert not approved.copy_image(uploaded).created

    def test_adds_metadata_and_tags(self, s3_location: S3Location, moto_client: Any):
        uploaded = s3_location.put_image(FOX, image=image_of())
        tagged = S3Location(**{**dict(s3_location), "tags": {"state": "approved"}})
        copied = tagged.copy_image(uploaded, key="approved/fox.png", metadata={"by": "Jörg"})
        place = {"Bucket": copied.bucket, "Key": copied.key}
        assert moto_client.head_object(**place)["Metadata"]["by"] == "J%C3%B6rg"
        assert moto_client.head_object(**place)["Metadata"]["n1n-model"] == "gemini-2.5-flash-image"
        assert moto_client.get_object_tagging(**place)["TagSet"] == [{"Key": "state", "Value": "approved"}]

    def test_source_without_permission(self, scripted_store: ScriptedStore):
        location = scripted_store.server.location("shop")
        scripted_store.says(Answer(403))
        uploaded = UploadedImage("other", "a.png", "ab", "image/png", 1, 1, 3)
        with pytest.raises(UploadError, match=r"copy from s3://other/a.png: .* grant"):
            location.copy_image(uploaded)


class TestRead:
    def test_reads_and_raises_as_a_source(self, s3_location: S3Location):
        uploaded = s3_location.put_image(FOX, image=image_of())
        assert s3_location.read(uploaded.bucket, uploaded.key, 100) == FOX
        with pytest.raises(SourceError, match="at most 3"):
            s3_location.read(uploaded.bucket, uploaded.key, 3)
        with pytest.raises(SourceError, match="no such object"):
            s3_location.read(uploaded.bucket, "gone.png", 100)
