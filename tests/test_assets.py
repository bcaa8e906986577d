import time
from typing import Any

import pytest
from prefect import flow
from prefect.assets import Asset, materialize
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from n1n_prefect import (
    HintedDelays,
    N1nCredentials,
    aupload_image,
    edit_image,
    generate_image,
    image_to_s3,
    upload_image,
)
from n1n_prefect.assets import asset_key, emit_upload
from n1n_prefect.images import UploadedImage
from tests.examples import png, uploaded

SMALL = {"model": "gemini-3.1-flash-image", "image_size": "512"}
PROMPT = "a secret prompt about a red fox"


class TestAssetKey:
    @pytest.mark.parametrize(
        "address",
        [
            "s3://shop/products/fox.png",
            "s3://shop/week 46/äpple & <b>'\"`|^{}[]%#?\\.png",
            "s3://shop/\n\r\t\0.png",
            "s3://shop/\ud800.png",
            "https://cdn.example/a%20b.png",
        ],
    )
    def test_is_one_that_prefect_takes(self, address):
        assert Asset(key=asset_key(address)).key.startswith(address[:9])

    def test_keeps_what_may_stay_and_tells_the_rest_apart(self):
        assert asset_key("s3://shop/a b#1.png") == "s3://shop/a~20b~231.png"
        assert asset_key("s3://shop/a/b-c_d=e+f@g,h:i~j.png") == "s3://shop/a/b-c_d=e+f@g,h:i~j.png"

    @pytest.mark.parametrize("address", ["s3://shop/" + "k" * 600, "sha256:abcd", "", "fox.png"])
    def test_is_nothing_where_there_can_be_none(self, address):
        assert asset_key(address) == ""


def stored(name: str, resource_id: str, count: int = 1) -> list[Any]:
    """The events of a name about an asset, oldest first, once there are so many."""
    wanted = EventFilter(
        event=EventNameFilter(name=[f"prefect.asset.{name}"]), resource=EventResourceFilter(id=[resource_id])
    )
    with get_client(sync_client=True) as client:
        for _ in range(240):
            found = client.read_events(filter=wanted, limit=50).events
            if len(found) >= count:
                return sorted(found, key=lambda event: event.occurred)
            time.sleep(0.25)
    pytest.fail(f"not {count} {name} events about {resource_id} within 60 s")


def about(resource_id: str) -> list[str]:
    """The names of all events about an asset."""
    with get_client(sync_client=True) as client:
        found = client.read_events(filter=EventFilter(resource=EventResourceFilter(id=[resource_id])), limit=50)
    return sorted(event.event.removeprefix("prefect.asset.") for event in found.events)


def related(event: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for resource in event.related:
        found.setdefault(resource.role, []).append(resource.id)
    return found


class TestOutsideOfARun:
    def test_does_nothing(self):
        emit_upload(uploaded(), ())


@pytest.fixture
def credentials(n1n_gateway_factory):
    gateway = n1n_gateway_factory(canned=True, grain=False)
    return N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url)


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestOnTheServer:
    def test_an_edit_of_an_object_and_of_bytes(self, credentials, s3_location, moto_client):
        moto_client.put_object(Bucket=s3_location.bucket, Key="in/cup 1.png", Body=png(64, 64))
        source = f"s3://{s3_location.bucket}/in/cup 1.png"

        @flow
        def edit():
            image = edit_image(PROMPT, [source, png(32, 32)], credentials=credentials, source=s3_location, **SMALL)
            return upload_image(image, destination=s3_location), upload_image(image, destination=s3_location, key="b")

        first, second = edit()
        (event,) = stored("materialization.succeeded", first.uri)
        assert event.resource.name == first.key.rpartition("/")[2]
        assert event.resource["prefect.asset.description"] == "512x512 image/jpeg by gemini-3.1-flash-image"
        around = related(event)
        assert around["asset"] == [source.replace(" ", "~20")]
        assert around["asset-materialized-by"] == ["n1n-prefect"]
        assert {"flow-run", "flow", "task-run"} <= set(around)
        assert event.payload == {
            "uri": first.uri,
            "sha256": first.sha256,
            "width": first.width,
            "height": first.height,
            "size_bytes": first.size_bytes,
            "media_type": "image/jpeg",
            "model": "gemini-3.1-flash-image",
            "estimated_cost_usd": first.estimated_cost_usd,
            "request_key": first.request_key,
            "prompt_sha256": first.original.prompt_sha256,
            "inputs": list(first.original.inputs),
            "created": True,
            "reused": False,
        }
        assert first.original.inputs[0] == source
        assert first.original.inputs[1].startswith("sha256:")
        # The second object has the same input, which is told of once a run.
        assert related(stored("materialization.succeeded", second.uri)[0])["asset"] == around["asset"]
        assert len(stored("referenced", around["asset"][0])) == 1
        assert PROMPT not in str(event)

    def test_what_was_there_already_was_referenced_and_not_made(self, credentials, s3_location):
        again = generate_image.with_options(cache_policy=NO_CACHE)

        @flow
        def draw():
            images = [again("a mug", credentials=credentials, **SMALL) for _ in range(2)]
            return [upload_image(image, destination=s3_location) for image in images]

        first, second = draw()
        assert (first.created, second.created) == (True, False)
        (event,) = stored("referenced", first.uri)
        assert (event.payload["created"], event.payload["reused"]) == (False, True)
        assert about(first.uri) == ["materialization.succeeded", "referenced"]

    async def test_a_copy_is_made_of_the_object_it_copies(self, credentials, s3_location):
        @flow
        async def publish():
            outcome = image_to_s3("a jug", credentials=credentials, destination=s3_location, key="pending/a", **SMALL)
            assert outcome.uploaded
            return await aupload_image(outcome.uploaded, destination=s3_location, key="published/a")

        published = await publish()
        (event,) = stored("materialization.succeeded", published.uri)
        assert related(event)["asset"] == [f"s3://{s3_location.bucket}/pending/a"]
        assert event.payload["sha256"] == published.sha256

    def test_a_failure_is_told_once_it_is_final(self, credentials, s3_location, monkeypatch):
        nowhere = s3_location.model_copy(update={"bucket": f"nowhere-{s3_location.bucket}"})
        from n1n_prefect.errors import UploadError

        def busy(*_: Any, **__: Any) -> UploadedImage:
            raise UploadError("The store is busy.", is_transient=True)

        @flow
        def draw():
            image = generate_image("a bowl", credentials=credentials, **SMALL)
            upload_image(image, destination=nowhere, key="bowl", return_state=True)
            with monkeypatch.context() as patched:
                patched.setattr(type(s3_location), "put_image", busy)
                quick = upload_image.with_options(retries=2, retry_delay_seconds=HintedDelays([0.01]))
                quick(image, destination=s3_location, key="busy", return_state=True)

        draw()
        (event,) = stored("materialization.failed", f"s3://{nowhere.bucket}/bowl")
        assert (event.payload["error"], event.payload["code"]) == ("UploadError", "NoSuchBucket")
        assert len(stored("materialization.failed", f"s3://{s3_location.bucket}/busy")) == 1

    @pytest.mark.parametrize("key", ["week 46/äpple & <b>'\"`|^{}[]%#?.png", "k/" + "long/" * 150 + "k.png"])
    def test_no_key_fails_a_run(self, credentials, s3_location, key):
        @flow
        def draw():
            image = generate_image("a pot", credentials=credentials, **SMALL)
            return upload_image(image, destination=s3_location, key=key)

        put = draw()
        assert put.key == key
        if asset := asset_key(put.uri):
            (event,) = stored("materialization.succeeded", asset)
            assert event.payload["uri"] == put.uri

    def test_a_user_s_own_asset_is_made_of_ours(self, credentials, s3_location):
        page = Asset(key=f"s3://{s3_location.bucket}/page.html")

        @materialize(page)
        def publish(image: UploadedImage) -> str:
            return image.uri

        @flow
        def draw():
            return publish(upload_image.submit(generate_image("a pan", credentials=credentials, **SMALL),
                                               destination=s3_location))  # fmt: skip

        uri = draw()
        (event,) = stored("materialization.succeeded", page.key)
        assert related(event)["asset"] == [uri]

    def test_switched_off(self, credentials, s3_location, monkeypatch):
        @flow
        def draw(key):
            image = generate_image("a vase", credentials=credentials, **SMALL)
            return upload_image(image, destination=s3_location, key=key)

        monkeypatch.setenv("PREFECT_INTEGRATIONS_N1N_EMIT_ASSETS", "false")
        silent = draw("off")
        monkeypatch.delenv("PREFECT_INTEGRATIONS_N1N_EMIT_ASSETS")
        stored("materialization.succeeded", draw("on").uri)
        assert about(silent.uri) == []
