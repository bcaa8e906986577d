import asyncio
import dataclasses
import hashlib
import inspect
import logging
import shutil
from io import BytesIO

import cloudpickle
import pytest
from PIL import AvifImagePlugin, Image
from prefect import flow, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.serializers import PickleSerializer
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from n1n_prefect import DerivedImage, Variant, aderive_image, derive_image, upload_image
from n1n_prefect.derive import derive
from n1n_prefect.deriving import derived_objects
from n1n_prefect.errors import ImageValidationError, InvalidRequestError, SourceError, StagingError, UploadError
from n1n_prefect.policies import DELAYS, RETRIES, HintedDelays, worth_retrying
from tests.open_telemetry import measured
from tests.s3_servers import Answer, new_bucket
from tests.staged_images import noise, object_of, png, staged
from tests.test_assets import related, stored

THUMB = "thumb=crop 24x24 webp"
BOTH = "thumb=crop 24x24 webp; card=pad 40x30 jpeg on white"

pytestmark = pytest.mark.usefixtures("own_storage")


def bodies(client, bucket):
    """Every object of a bucket by its key."""
    listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {item["Key"]: client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in listed}


@pytest.fixture
def uploaded(s3_location):
    return s3_location.put_image(png(), image=staged(), key="products/fox.png")


# ── what the tasks are ───────────────────────────────────────────────────────


class TestTheTasks:
    @pytest.mark.parametrize("a_task", [derive_image, aderive_image])
    def test_are_tasks_with_the_promised_defaults(self, a_task):
        assert isinstance(a_task, Task)
        assert (a_task.retries, list(a_task.retry_delay_seconds)) == (RETRIES, list(DELAYS))
        assert type(a_task.retry_delay_seconds) is HintedDelays
        assert a_task.retry_condition_fn is worth_retrying
        assert a_task.cache_policy == NO_CACHE
        assert cloudpickle.loads(cloudpickle.dumps(a_task)).fn.__name__ == a_task.fn.__name__

    def test_differ_in_await_alone(self):
        one, other = (inspect.signature(a_task.fn).parameters for a_task in (derive_image, aderive_image))
        assert one == other
        assert (derive_image.isasync, aderive_image.isasync) == (False, True)
        for name in one:
            assert f"\n    {name}: " in inspect.cleandoc(derive_image.fn.__doc__), name

    def test_are_named_after_the_image(self):
        image = staged()
        assert derive_image.task_run_name({"image": image}) == f"derive {image.sha256[:8]}"
        assert derive_image.task_run_name({"image": image, "name": "sku-17"}) == "derive sku-17"


# ── where variants go ────────────────────────────────────────────────────────


class TestDeriveImage:
    def test_puts_each_beside_the_original_which_stays(self, uploaded, s3_location, moto_client):
        thumb, card = derive_image.fn(uploaded, BOTH, destination=s3_location)
        there = bodies(moto_client, s3_location.bucket)
        assert set(there) == {"products/fox.png", "products/fox.thumb.webp", "products/fox.card.jpg"}
        assert there["products/fox.png"] == png()
        assert thumb == DerivedImage(
            "thumb",
            s3_location.bucket,
            "products/fox.thumb.webp",
            hashlib.sha256(there["products/fox.thumb.webp"]).hexdigest(),
            "image/webp",
            24,
            24,
            len(there["products/fox.thumb.webp"]),
            True,
        )
        assert thumb.uri == f"s3://{s3_location.bucket}/products/fox.thumb.webp"
        assert (card.name, card.media_type, card.width, card.height) == ("card", "image/jpeg", 40, 30)
        with Image.open(BytesIO(there[card.key])) as image:
            assert (image.format, image.size) == ("JPEG", (40, 30))

    def test_says_of_the_object_what_it_is(self, uploaded, s3_location, moto_client):
        tagged = s3_location.model_copy(update={"tags": {"team": "shop"}})
        (thumb,) = derive_image.fn(uploaded, THUMB, destination=tagged)
        place = {"Bucket": thumb.bucket, "Key": thumb.key}
        head = moto_client.head_object(**place, ChecksumMode="ENABLED")
        assert head["ContentType"] == "image/webp"
        assert head["ChecksumSHA256"]
        assert head["Metadata"] == {
            "sha256": thumb.sha256,
            "n1n-derived-from": uploaded.uri,
            "n1n-derived-from-sha256": uploaded.sha256,
            "n1n-variant": THUMB,
        }
        assert moto_client.get_object_tagging(**place)["TagSet"] == [{"Key": "team", "Value": "shop"}]

    async def test_of_coroutines_is_the_same(self, uploaded, s3_location):
        one = derive_image.fn(uploaded, BOTH, destination=s3_location)
        again = await aderive_image.fn(uploaded, BOTH, destination=s3_location)
        assert again == tuple(dataclasses.replace(derived, created=False) for derived in one)

    @pytest.mark.parametrize(
        "variants",
        [
            Variant("thumb", 24, 24, "crop"),
            [Variant("thumb", 24, 24, "crop")],
            {"name": "thumb", "width": 24, "height": 24, "mode": "crop"},
            [THUMB],
        ],
        ids=str,
    )
    def test_takes_variants_of_every_kind(self, uploaded, s3_location, variants):
        (thumb,) = derive_image.fn(uploaded, variants, destination=s3_location)
        assert thumb.sha256 == derive(png(), Variant.parse(THUMB)).sha256

    @pytest.mark.parametrize(
        ("given", "key"),
        [
            ({}, "products/{sha256}.thumb.webp"),
            ({"key": "other/fox.png"}, "other/fox.thumb.webp"),
            ({"name": "fox"}, "named/fox.thumb.webp"),
        ],
        ids=str,
    )
    def test_of_a_generated_image_go_where_that_is_uploaded(self, s3_location, given, key):
        location = s3_location.model_copy(
            update={"key_template": "named/{name}.{extension}"} if "name" in given else {}
        )
        image = staged()
        (thumb,) = derive_image.fn(image, THUMB, destination=location, **given)
        assert thumb.key == key.format(sha256=image.sha256)
        assert upload_image.fn(image, destination=location, **given).key == thumb.key.replace("thumb.webp", "png")

    def test_go_to_another_bucket_under_the_same_key(self, uploaded, moto_server, moto_client):
        public = moto_server.location(new_bucket(moto_client), prefix="not/taken")
        (thumb,) = derive_image.fn(uploaded, THUMB, destination=public)
        assert bodies(moto_client, public.bucket).keys() == {"products/fox.thumb.webp"}
        head = moto_client.head_object(Bucket=thumb.bucket, Key=thumb.key)
        assert head["Metadata"]["n1n-derived-from"] == uploaded.uri

    def test_a_result_is_small(self, s3_location):
        image = staged(noise(1))
        set_of_six = "thumb=fit 16,32,64,128,256,300 webp"
        made = derive_image.fn(image, set_of_six, destination=s3_location, key="k" * 80 + ".png")
        assert len(made) == 6
        assert len(PickleSerializer().dumps(made)) < 3000

    def test_the_longest_key(self, s3_location):
        key = "ü" * 500 + ".png"
        for _ in range(2):
            (thumb,) = derive_image.fn(staged(), THUMB, destination=s3_location, key=key)
        assert (thumb.key, thumb.created) == ("ü" * 500 + ".thumb.webp", False)
        (other,) = derive_image.fn(staged(), "thumb=crop 30 webp lossless", destination=s3_location, key=key)
        assert (other.key, other.created) == (thumb.key, True)


class TestTheBytes:
    def test_come_from_the_staged_original(self, uploaded, s3_location, moto_client):
        moto_client.delete_object(Bucket=uploaded.bucket, Key=uploaded.key)
        assert derive_image.fn(uploaded, THUMB, destination=s3_location)

    def test_come_from_the_bucket_where_nothing_is_staged(self, uploaded, s3_location, tmp_path):
        shutil.rmtree(tmp_path / "n1n")
        (thumb,) = derive_image.fn(uploaded, THUMB, destination=s3_location)
        again = dataclasses.replace(uploaded, original=None)
        assert derive_image.fn(again, THUMB, destination=s3_location) == (dataclasses.replace(thumb, created=False),)

    def test_are_those_that_were_uploaded(self, uploaded, s3_location, moto_client):
        moto_client.put_object(Bucket=uploaded.bucket, Key=uploaded.key, Body=png(5, 5))
        with pytest.raises(SourceError, match="has changed since it was made"):
            derive_image.fn(dataclasses.replace(uploaded, original=None), THUMB, destination=s3_location)

    def test_are_gone(self, uploaded, s3_location, moto_client, tmp_path):
        shutil.rmtree(tmp_path / "n1n")
        moto_client.delete_object(Bucket=uploaded.bucket, Key=uploaded.key)
        with pytest.raises(SourceError, match="no such object"):
            derive_image.fn(uploaded, THUMB, destination=s3_location)
        with pytest.raises(StagingError):
            derive_image.fn(uploaded.original, THUMB, destination=s3_location)

    def test_are_damaged(self, s3_location, moto_client):
        image = staged(png()[:-20])
        with pytest.raises(ImageValidationError, match="truncated") as caught:
            derive_image.fn(image, THUMB, destination=s3_location)
        assert caught.value.image == image
        assert bodies(moto_client, s3_location.bucket) == {}


# ── what may be there ────────────────────────────────────────────────────────


class TestAgain:
    CHANGED = "thumb=crop 30x30 webp"

    def test_the_same_is_not_written(self, uploaded, s3_location, moto_client):
        first = derive_image.fn(uploaded, BOTH, destination=s3_location)
        before = moto_client.head_object(Bucket=uploaded.bucket, Key=first[0].key)["LastModified"]
        again = derive_image.fn(uploaded, BOTH, destination=s3_location)
        assert [derived.created for derived in (*first, *again)] == [True, True, False, False]
        assert [derived.sha256 for derived in first] == [derived.sha256 for derived in again]
        assert moto_client.head_object(Bucket=uploaded.bucket, Key=first[0].key)["LastModified"] == before

    def test_a_variant_that_changed_is_redone(self, uploaded, s3_location, moto_client):
        derive_image.fn(uploaded, THUMB, destination=s3_location)
        (thumb,) = derive_image.fn(uploaded, self.CHANGED, destination=s3_location)
        assert (thumb.created, thumb.width) == (True, 30)
        there = moto_client.head_object(Bucket=thumb.bucket, Key=thumb.key)["Metadata"]
        assert (there["n1n-variant"], there["sha256"]) == (self.CHANGED, thumb.sha256)

    def test_an_original_that_was_drawn_again_has_its_variant_redone(self, uploaded, s3_location):
        derive_image.fn(uploaded, THUMB, destination=s3_location)
        newer = staged(noise(5))
        again = s3_location.put_image(noise(5), image=newer, key=uploaded.key, if_exists="replace")
        (thumb,) = derive_image.fn(again, THUMB, destination=s3_location)
        assert (thumb.created, thumb.key) == (True, "products/fox.thumb.webp")

    @pytest.mark.parametrize("whose", ["another image", "another original's variant", "somebody's"])
    def test_nothing_else_is_replaced(self, uploaded, s3_location, moto_client, whose):
        key = "products/fox.thumb.webp"
        if whose == "another image":
            s3_location.put_image(noise(2), image=staged(noise(2)), key=key)
        elif whose == "somebody's":
            moto_client.put_object(Bucket=uploaded.bucket, Key=key, Body=b"somebody's")
        else:
            derive_image.fn(staged(noise(2)), THUMB, destination=s3_location, key="products/fox.jpg")
        before = bodies(moto_client, uploaded.bucket)
        with pytest.raises(UploadError, match="is not said to be this variant of") as caught:
            derive_image.fn(uploaded, THUMB, destination=s3_location)
        assert caught.value.code == "ObjectExists"
        assert not caught.value.is_transient
        assert bodies(moto_client, uploaded.bucket) == before

    def test_the_other_three_ways(self, uploaded, s3_location):
        first = derive_image.fn(uploaded, THUMB, destination=s3_location)
        with pytest.raises(UploadError, match="if_exists='fail'"):
            derive_image.fn(uploaded, self.CHANGED, destination=s3_location, if_exists="fail")
        (kept,) = derive_image.fn(uploaded, self.CHANGED, destination=s3_location, if_exists="keep")
        assert (kept.created, kept.sha256, kept.media_type, kept.width) == (False, first[0].sha256, "", 0)
        s3_location.put_image(noise(2), image=staged(noise(2)), key=kept.key, if_exists="replace")
        (put,) = derive_image.fn(uploaded, self.CHANGED, destination=s3_location, if_exists="replace")
        assert (put.created, put.width) == (True, 30)

    def test_on_a_store_that_ignores_conditions(self, rclone_server, rclone_client):
        location = rclone_server.location(new_bucket(rclone_client))
        image = staged()
        made = [derive_image.fn(image, text, destination=location)[0].created for text in (THUMB, THUMB, self.CHANGED)]
        assert made == [True, False, True]


class TestFailures:
    @pytest.mark.parametrize(
        ("answer", "is_transient"), [(Answer(503, "SlowDown"), True), (Answer(403, "AccessDenied"), False)]
    )
    def test_of_the_store_stay_what_they_are(self, scripted_store, answer, is_transient):
        location = scripted_store.server.location("shop", conditional_put="always")
        scripted_store.says(*[answer] * 9)
        with pytest.raises(UploadError, match=r"thumb\.webp") as caught:
            derive_image.fn(staged(), THUMB, destination=location)
        assert (caught.value.is_transient, caught.value.code) == (is_transient, answer.code)

    def test_a_look_that_is_refused(self, scripted_store):
        location = scripted_store.server.location("shop", conditional_put="always")
        scripted_store.says(Answer(412, "PreconditionFailed"), Answer(200, headers={"ETag": '"e"'}), Answer(503))
        scripted_store.says(Answer(503), Answer(503))
        with pytest.raises(UploadError, match="look at"):
            derive_image.fn(staged(), THUMB, destination=location)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"image": None}, "image must be a GeneratedImage or UploadedImage"),
            ({"image": "s3://shop/fox.png"}, "image must be a GeneratedImage or UploadedImage"),
            ({"image": [staged]}, "image must be a GeneratedImage or UploadedImage"),
            ({"variants": None}, "A variant is given as NoneType"),
            ({"variants": "thumb=stretch 5"}, "'stretch' is no word"),
            ({"variants": []}, "0 variants"),
            ({"variants": ["a=webp", "a=png"]}, "Two variants are called 'a'"),
            ({"destination": "s3://shop"}, "destination must be a S3Location"),
            ({"destination": ("bucket", "shop")}, r"unmapped\(destination\)"),
            ({"if_exists": "overwrite"}, "if_exists='overwrite' is none of redo, fail, keep, replace"),
            ({"name": 5}, "name must be a str"),
            ({"key": 5}, "key must be a str"),
            ({"key": "../up.png"}, "key="),
            ({"key": "k" * 1020}, "1,031 bytes"),
            ({"name": "fox"}, "has no place in key_template"),
        ],
        ids=str,
    )
    def test_misuse_is_named_and_nothing_is_written(self, s3_location, moto_client, given, words):
        given = {"image": staged(), "variants": THUMB, "destination": s3_location, **given}
        with pytest.raises(InvalidRequestError, match=words):
            derive_image.fn(**given)
        assert bodies(moto_client, s3_location.bucket) == {}

    def test_another_image_that_was_kept_has_no_variants(self, uploaded, s3_location):
        kept = s3_location.put_image(noise(3), image=staged(noise(3)), key=uploaded.key, if_exists="keep")
        with pytest.raises(InvalidRequestError, match="is another image, which was kept"):
            derive_image.fn(kept, THUMB, destination=s3_location)

    def test_a_format_that_is_missing_is_said_before_anything_is_read(self, s3_location, monkeypatch):
        monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
        gone = staged(uri="file:///gone", storage_key="n1n/gone")
        with pytest.raises(InvalidRequestError, match="is to be avif"):
            derive_image.fn(gone, "hero=avif", destination=s3_location)

    def test_the_image_itself_has_not_failed(self, seen, s3_location, caplog):
        with caplog.at_level(logging.ERROR), pytest.raises(ImageValidationError):
            derive_image.fn(staged(b"no image at all"), THUMB, destination=s3_location)
        assert "ImageValidationError: No variant can be made" in caplog.text
        assert measured() == {}


# ── without a task, and through the engine ───────────────────────────────────


class TestDerivedObjects:
    def test_for_who_has_the_bytes(self, s3_location, moto_client):
        image = object_of(staged(), bucket=s3_location.bucket)
        made = derived_objects(png(), image, BOTH, s3_location)
        assert [derived.key for derived in made] == [
            image.key.replace("png", end) for end in ("thumb.webp", "card.jpg")
        ]
        assert bodies(moto_client, s3_location.bucket).keys() == {derived.key for derived in made}
        assert not any(derived.created for derived in derived_objects(png(), image, BOTH, s3_location))

    def test_a_key_without_room_is_refused_before_any_is_written(self, s3_location, moto_client):
        image = object_of(staged(), key="k" * 1010 + ".png")
        with pytest.raises(InvalidRequestError, match=r"1,0\d\d bytes"):
            derived_objects(png(), image, f"a=webp; {'b' * 40}=webp", s3_location)
        assert bodies(moto_client, s3_location.bucket) == {}


class TestWatching:
    def test_spans(self, seen, uploaded, s3_location):
        derive_image.fn(uploaded, BOTH, destination=s3_location)
        derived = seen.only("n1n.derive")
        puts = seen.named("n1n.upload")
        assert [put.attributes["aws.s3.key"] for put in puts] == ["products/fox.thumb.webp", "products/fox.card.jpg"]
        assert all(seen.parent(put) is derived for put in puts)

    def test_log(self, uploaded, s3_location, caplog):
        with caplog.at_level(logging.INFO, "n1n_prefect"):
            derive_image.fn(uploaded, THUMB, destination=s3_location)
            derive_image.fn(uploaded, THUMB, destination=s3_location)
        assert f"Derived {uploaded.uri.replace('png', 'thumb.webp')}, 24x24 pixels" in caplog.text
        assert f"Already there: {uploaded.uri.replace('png', 'thumb.webp')}" in caplog.text


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestTheChain:
    def test_of_threads(self, s3_location, moto_client):
        images = [staged(noise(number, 40)) for number in range(3)]

        @flow(task_runner=ThreadPoolTaskRunner(2))
        def chain():
            uploads = upload_image.map(images, destination=unmapped(s3_location))
            listed = derive_image.map(uploads, unmapped([THUMB, "web=jpeg"]), destination=unmapped(s3_location))
            return listed.result(), derive_image.map(
                uploads, "thumb=fit 8,16", destination=unmapped(s3_location)
            ).result()

        listed, sets = chain()
        assert [[derived.name for derived in made] for made in listed] == [["thumb", "web"]] * 3
        assert [[derived.name for derived in made] for made in sets] == [["thumb-8", "thumb-16"]] * 3
        assert len(bodies(moto_client, s3_location.bucket)) == 15

    async def test_of_coroutines(self, s3_location):
        images = [staged(noise(number, 40)) for number in range(3)]

        @flow
        async def chain():
            return await asyncio.gather(*(aderive_image(image, THUMB, destination=s3_location) for image in images))

        assert len({made[0].sha256 for made in await chain()}) == 3

    def test_a_variant_is_an_asset_made_of_its_original(self, uploaded, s3_location):
        @flow
        def chain():
            return derive_image(uploaded, THUMB, destination=s3_location)

        (thumb,) = chain()
        (event,) = stored("materialization.succeeded", thumb.uri)
        assert related(event)["asset"] == [uploaded.uri]

    def test_a_store_that_is_busy_is_tried_again(self, scripted_store):
        location = scripted_store.server.location("shop", conditional_put="always")
        scripted_store.says(*[Answer(503, "SlowDown")] * 3, Answer(headers={"ETag": '"one"'}))
        image = staged()

        @flow
        def chain():
            quick = derive_image.with_options(retry_delay_seconds=HintedDelays([0.05]), retries=1)
            return quick(image, THUMB, destination=location)

        (thumb,) = chain()
        assert (thumb.created, scripted_store.methods[-1]) == (True, "PUT")
