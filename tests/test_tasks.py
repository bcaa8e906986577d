import asyncio
import base64
import hashlib
import inspect
import shutil
from pathlib import Path

import cloudpickle
import pytest
from prefect import flow, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    temporary_settings,
)
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

import n1n_prefect
from n1n_prefect import (
    ImageOutcome,
    ImageRequest,
    ImageSpec,
    InvalidRequestError,
    N1nCredentials,
    Spending,
    aedit_image,
    agenerate_image,
    aimage_to_s3,
    aupload_image,
    avalidate_image,
    discard_image,
    edit_image,
    errors,
    gather_outcomes,
    generate_image,
    image_to_s3,
    tasks,
    upload_image,
    validate_image,
)
from n1n_prefect.policies import DELAYS, RETRIES, HintedDelays, PaidOnce, worth_retrying
from n1n_prefect.testing.drawing import Drawing
from tests.examples import generated, png, uploaded
from tests.open_telemetry import measured
from tests.s3_servers import Answer, new_bucket

PAIRS = [
    (getattr(n1n_prefect, name), getattr(n1n_prefect, f"a{name}"))
    for name in ("generate_image", "edit_image", "validate_image", "upload_image", "image_to_s3")
]
ALL = [one for pair in PAIRS for one in pair]


def named(a_task):
    return a_task.fn.__name__


def parameters(a_task):
    return {
        name: (parameter.kind, parameter.default, parameter.annotation)
        for name, parameter in inspect.signature(a_task.fn).parameters.items()
    }


# ── what the tasks are ───────────────────────────────────────────────────────


class TestEachTask:
    @pytest.mark.parametrize("a_task", ALL, ids=named)
    def test_is_a_task_with_all_that_tasks_have(self, a_task):
        assert isinstance(a_task, Task)
        assert a_task.map
        assert a_task.submit
        assert cloudpickle.loads(cloudpickle.dumps(a_task)).fn.__name__ == a_task.fn.__name__

    @pytest.mark.parametrize(("one", "other"), PAIRS, ids=named)
    def test_has_a_twin_that_differs_in_await_alone(self, one, other):
        assert parameters(one) == parameters(other)
        assert (one.isasync, other.isasync) == (False, True)
        assert one.task_run_name({"prompt": "a fox"}) == other.task_run_name({"prompt": "a fox"})

    @pytest.mark.parametrize("a_task", ALL, ids=named)
    def test_has_the_promised_defaults(self, a_task):
        assert (a_task.retries, a_task.retry_delay_seconds, a_task.retry_jitter_factor) == (RETRIES, list(DELAYS), None)
        assert type(a_task.retry_delay_seconds) is HintedDelays
        assert a_task.retry_condition_fn is worth_retrying
        assert not a_task.tags

    @pytest.mark.parametrize("a_task", ALL, ids=named)
    def test_is_cached_only_where_it_pays_for_one_image(self, a_task):
        pays = "generate" in a_task.fn.__name__ or "edit" in a_task.fn.__name__
        assert a_task.cache_policy == (PaidOnce() if pays else NO_CACHE)

    @pytest.mark.parametrize("a_task", [one for one, _ in PAIRS], ids=named)
    def test_explains_each_argument(self, a_task):
        for name in parameters(a_task):
            assert f"\n    {name}: " in inspect.cleandoc(a_task.fn.__doc__), name

    @pytest.mark.parametrize("a_task", [one for one, _ in PAIRS if "credentials" in parameters(one)], ids=named)
    def test_takes_every_field_of_a_request(self, a_task):
        fields = set(ImageRequest.__dataclass_fields__) - {"prompt", "images"}
        assert fields <= set(parameters(a_task))
        for name in fields:
            assert parameters(a_task)[name][1] == ImageRequest.__dataclass_fields__[name].default

    @pytest.mark.parametrize("a_task", ALL, ids=named)
    def test_takes_blocks_by_keyword_alone(self, a_task):
        for name in {"credentials", "destination", "source"} & set(parameters(a_task)):
            assert parameters(a_task)[name][0] is inspect.Parameter.KEYWORD_ONLY


class TestRunNames:
    PROMPT = "unicorn zeppelin quagmire"

    def names(self, **given):
        return [a_task.task_run_name(given) for a_task in ALL]

    @pytest.mark.parametrize(
        "asked",
        [PROMPT, ImageRequest(PROMPT), [PROMPT], {"text": PROMPT}, PROMPT.encode(), PROMPT * 1000, "\ud83d" + PROMPT],
        ids=lambda value: type(value).__name__,
    )
    @pytest.mark.parametrize("argument", ["prompt", "request"])
    def test_hold_no_word_of_the_prompt(self, asked, argument):
        for name in self.names(**{argument: asked}):
            assert not any(word in name.lower() for word in self.PROMPT.split())
            assert len(name) < 80

    def test_tell_prompts_apart(self):
        assert self.names(prompt="a fox") == self.names(prompt="a fox") != self.names(prompt="a wolf")

    def test_hold_the_user_s_own_name_on_one_short_line(self):
        assert tasks.image_to_s3.task_run_name({"name": "sku-17", "request": "a fox"}) == "image sku-17"
        assert len(tasks.upload_image.task_run_name({"name": "line\n" * 1000})) < 80
        assert "\n" not in tasks.upload_image.task_run_name({"name": "line\n" * 1000})

    def test_hold_the_start_of_an_image_s_hash(self):
        for image in (generated(), uploaded()):
            assert tasks.validate_image.task_run_name({"image": image}) == "validate abababab"

    @pytest.mark.parametrize("image", [None, 7, b"\x89PNG" * 1000, "s3://shop/secret.png", {"sha256": "x"}])
    def test_never_fail(self, image):
        class Odd:
            def __bool__(self):
                raise RuntimeError

        assert self.names(image=image, name=None)
        assert self.names(prompt=Odd(), request=Odd(), image=Odd(), name=Odd())
        assert self.names()


# ── through the engine ───────────────────────────────────────────────────────

SMALL = {"model": "gemini-3.1-flash-image", "image_size": "512", "aspect_ratio": "1:1"}


class Tap(Drawing):
    """Draws, and keeps the hash of every file that goes out."""

    def __init__(self):
        super().__init__(grain=False, canned=True)
        self.sent = []

    def draw_base64(self, picture):
        text = super().draw_base64(picture)
        self.sent.append(hashlib.sha256(base64.b64decode(text)).hexdigest())
        return text


@pytest.fixture
def gateway(n1n_gateway_factory):
    """A quick gateway that knows what it sent."""
    gateway = n1n_gateway_factory()
    gateway.drawing = Tap()
    return gateway


@pytest.fixture
def credentials(gateway):
    return N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url)


def objects(location, client):
    """The SHA-256 of every object in a location's bucket, by its key."""
    listed = client.list_objects_v2(Bucket=location.bucket).get("Contents", [])
    bodies = {item["Key"]: client.get_object(Bucket=location.bucket, Key=item["Key"])["Body"].read() for item in listed}
    return {key: hashlib.sha256(body).hexdigest() for key, body in bodies.items()}


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestTheChain:
    def test_of_threads(self, gateway, credentials, moto_server, moto_client):
        location = moto_server.location(new_bucket(moto_client), key_template="{name}-{sha256}.{extension}")
        prompts = [f"{words} {'x' * 5000}" for words in ("a fox", "a wolf", "a hare", "an owl", "a deer", "a mole")]

        @flow(task_runner=ThreadPoolTaskRunner(4))
        def chain():
            images = generate_image.map(prompts, credentials=unmapped(credentials), **SMALL)
            checked = validate_image.map(images, ImageSpec(max_edge=512))
            uploads = upload_image.map(checked, destination=unmapped(location), name=["1", "2", "3", "4", "5", "6"])
            return images.result(), uploads.result()

        images, uploads = chain()
        assert len(gateway.ledger.billed) == 6
        assert [image.sha256 for image in images] == [upload.sha256 for upload in uploads]
        assert sorted(image.sha256 for image in images) == sorted(gateway.drawing.sent)
        assert objects(location, moto_client) == {upload.key: upload.sha256 for upload in uploads}
        assert [upload.key[:2] for upload in uploads] == ["1-", "2-", "3-", "4-", "5-", "6-"]
        assert all(upload.created and upload.original == image for upload, image in zip(uploads, images, strict=True))

    async def test_of_coroutines(self, gateway, credentials, s3_location, moto_client):
        @flow
        async def chain():
            async def one(prompt):
                image = await agenerate_image(prompt, credentials=credentials, **SMALL)
                return await aupload_image(await avalidate_image(image), destination=s3_location)

            return await asyncio.gather(*(one(prompt) for prompt in ("a fox", "a wolf", "a hare")))

        uploads = await chain()
        assert len(gateway.ledger.billed) == 3
        assert sorted(objects(s3_location, moto_client).values()) == sorted(gateway.drawing.sent)
        assert {upload.sha256 for upload in uploads} == set(gateway.drawing.sent)


QUICK = {"retry_delay_seconds": HintedDelays([0.05]), "retries": 1}
THIRTY = [f"item {number:02}" for number in range(30)]
BAD = {
    "item 07": "failed",  # not an image
    "item 12": "invalid",
    "item 15": "refused",
    "item 21": "failed",  # another object is there
}


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestGatheredOutcomes:
    """Items in three tasks each, of which some do not make it."""

    @pytest.fixture
    def location(self, gateway, moto_server, moto_client):
        gateway.faults.add("not_an_image", times=None, match="item 07")
        gateway.faults.add("wrong_size", times=None, match="item 12")
        gateway.faults.add("prohibited_content", match="item 15")
        location = moto_server.location(new_bucket(moto_client), key_template="{name}.{extension}")
        moto_client.put_object(Bucket=location.bucket, Key="item 21.jpg", Body=b"another")
        return location

    def judge(self, prompts, outcomes, gateway):
        by_prompt = dict(zip(prompts, outcomes, strict=True))
        assert {prompt: outcome.status for prompt, outcome in by_prompt.items()} == {
            prompt: BAD.get(prompt, "uploaded") for prompt in prompts
        }
        assert "delivered something else than an image" in by_prompt["item 07"].reason
        assert "min_pixels: expected at least" in by_prompt["item 12"].reason
        assert "PROHIBITED_CONTENT" in by_prompt["item 15"].reason
        assert "item 21.jpg" in by_prompt["item 21"].reason
        for prompt in ("item 12", "item 21"):
            assert len(by_prompt[prompt].image.read_bytes()) == by_prompt[prompt].image.size_bytes
            assert by_prompt[prompt].charged == "yes"
        assert by_prompt["item 15"].image is None
        assert len({outcome.id for outcome in outcomes}) == len(prompts)
        assert len(gateway.ledger.calls) == len(prompts) + 1  # the one that was no image is drawn again

    def test_of_threads(self, gateway, credentials, location):
        @flow(task_runner=ThreadPoolTaskRunner(4))
        def chain():
            images = generate_image.with_options(**QUICK).map(THIRTY, credentials=unmapped(credentials), **SMALL)
            checked = validate_image.map(images)
            return gather_outcomes(upload_image.map(checked, destination=unmapped(location), name=THIRTY))

        self.judge(THIRTY, chain(), gateway)

    async def test_of_asynchronous_tasks(self, gateway, credentials, location):
        prompts = ["item 01", *BAD]

        @flow(task_runner=ThreadPoolTaskRunner(4))
        async def chain():
            given = {"credentials": credentials, **SMALL}
            images = [agenerate_image.with_options(**QUICK).submit(prompt, **given) for prompt in prompts]
            checked = [avalidate_image.submit(image) for image in images]
            uploads = [
                aupload_image.submit(image, destination=location, name=prompt)
                for image, prompt in zip(checked, prompts, strict=True)
            ]
            return gather_outcomes(uploads)

        self.judge(prompts, await chain(), gateway)


class TestImageToS3:
    """What becomes of an item; through the engine, since Prefect's retries belong to it."""

    @pytest.mark.prefect
    @pytest.mark.usefixtures("prefect_api")
    async def test_every_status_that_an_item_can_have(self, gateway, credentials, moto_server, moto_client, tmp_path):
        location = moto_server.location(new_bucket(moto_client), key_template="{name}.{extension}")
        moto_client.put_object(Bucket=location.bucket, Key="conflict.jpg", Body=b"another")
        gateway.faults.add("overloaded", match="flaky")
        gateway.faults.add("overloaded", times=None, match="broken")
        gateway.faults.add("image_safety", times=None, match="refused")
        gateway.faults.add("text_only", times=None, match="no_image")
        gateway.faults.add("wrong_size", match="better")
        gateway.faults.add("wrong_size", times=None, match="invalid")
        gateway.faults.add("wrong_size", times=None, match="never good")
        gateway.faults.add("reset_mid_body", times=None, match="unknown_outcome")
        gateway.faults.add("quota_exhausted", match="no money")
        items = {
            "uploaded": {},
            "flaky": {},
            "better": {"on_invalid": "regenerate"},
            "refused": {},
            "no_image": {},
            "invalid": {},
            "never good": {"on_invalid": "regenerate", "regenerations": 2},
            "unknown_outcome": {},
            "source_error": {"request": ImageRequest("source_error", ("/etc/passwd",), **SMALL)},
            "over_budget": {"spending": Spending(max_usd_per_run=0.01)},
            "broken": {},
            "no money": {},
            "conflict": {},
            "bad ratio": {"aspect_ratio": "3:1"},
            "bad prompt": {"request": 7},
            "bad image": {"request": ImageRequest("bad image", (b"\0" * 10,), **SMALL)},
            "bad spec": {"spec": {"width": 512}},
            "bad key": {"key": "a\0b"},
            "bad if_exists": {"if_exists": "overwrite"},
        }

        @flow
        async def draw():
            given = {"credentials": credentials, "destination": location}
            one = aimage_to_s3.with_options(**QUICK)
            ended = await asyncio.gather(*(
                one(**{"request": name, "name": name, **given, **(SMALL if "request" not in fields else {}), **fields})
                for name, fields in items.items()
            ))  # fmt: skip
            return ended, await one("uploaded", name="uploaded", **given, **SMALL)

        ended, again = await draw()
        assert (again.status, again.ok, again.charged) == ("already_there", True, "yes")
        found = dict(zip(items, ended, strict=True))
        assert {name: outcome.status for name, outcome in found.items()} == {
            "uploaded": "uploaded", "flaky": "uploaded", "better": "uploaded", "refused": "refused",
            "no_image": "no_image", "invalid": "invalid", "never good": "invalid", "unknown_outcome": "unknown_outcome",
            "source_error": "source_error", "over_budget": "over_budget", "broken": "failed", "no money": "failed",
            "conflict": "failed", "bad ratio": "failed", "bad prompt": "failed", "bad image": "source_error",
            "bad spec": "failed", "bad key": "failed", "bad if_exists": "failed",
        }  # fmt: skip
        assert {name: outcome.id for name, outcome in found.items()} == {name: name for name in items}
        made = [call.prompt_excerpt for call in gateway.ledger.calls]
        assert {name: made.count(name) for name in items if made.count(name)} == {
            "uploaded": 1, "flaky": 2, "better": 2, "refused": 2, "no_image": 2, "invalid": 1, "never good": 3,
            "unknown_outcome": 2, "broken": 2, "no money": 1, "conflict": 1,
        }  # fmt: skip
        assert {name: outcome.attempts for name, outcome in found.items() if outcome.attempts > 1} == {
            "flaky": 2, "better": 2, "refused": 2, "no_image": 2, "never good": 3, "unknown_outcome": 2, "broken": 2,
        }  # fmt: skip
        once = found["uploaded"].estimated_cost_usd
        assert found["better"].estimated_cost_usd == pytest.approx(2 * once, rel=0.05)
        assert found["never good"].estimated_cost_usd == pytest.approx(3 * once, rel=0.05)
        assert {name for name, outcome in found.items() if outcome.image} == {
            "uploaded", "flaky", "better", "invalid", "never good", "conflict",
        }  # fmt: skip
        assert {name: outcome.charged for name, outcome in found.items() if outcome.charged != "no"} == {
            "uploaded": "yes", "flaky": "yes", "better": "yes", "invalid": "yes", "never good": "yes",
            "conflict": "yes", "refused": "unknown", "no_image": "unknown", "unknown_outcome": "unknown",
        }  # fmt: skip
        assert all(outcome.reason for outcome in found.values() if not outcome.ok)
        assert sorted(objects(location, moto_client)) == ["better.jpg", "conflict.jpg", "flaky.jpg", "uploaded.jpg"]

    def test_a_name_without_a_place_is_found_before_anything_is_paid(self, gateway, credentials, outside, moto_server):
        location = moto_server.location("shop")
        outcome = image_to_s3.fn("a fox", credentials=credentials, destination=location, name="sku-17")
        assert (outcome.id, outcome.status, outcome.charged) == ("sku-17", "failed", "no")
        assert "{name}" in outcome.reason
        assert gateway.ledger.calls == []

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"credentials": "my-block"}, "credentials must be a N1nCredentials"),
            ({"credentials": None}, "credentials must be a N1nCredentials"),
            ({"destination": "s3://shop/products"}, "destination must be a S3Location"),
            ({"on_invalid": "retry"}, "on_invalid='retry'"),
            ({"regenerations": -1}, "regenerations=-1"),
            ({"regenerations": "2"}, "regenerations='2'"),
            ({"regenerations": None}, "regenerations=None"),
        ],
        ids=str,
    )
    def test_what_is_wrong_for_all_items_is_raised(self, gateway, credentials, outside, moto_server, wrong, words):
        given = {"credentials": credentials, "destination": moto_server.location("shop"), **wrong}
        with pytest.raises(InvalidRequestError, match=words):
            image_to_s3.fn("a fox", **given)
        assert gateway.ledger.calls == []


# ── outside of a run ─────────────────────────────────────────────────────────


@pytest.fixture
def outside(tmp_path):
    """No Prefect API at all, and none that may be started; a storage of its own."""
    with temporary_settings(
        updates={
            PREFECT_API_URL: None,
            PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False,
            PREFECT_LOCAL_STORAGE_PATH: tmp_path / "storage",
        }
    ):
        yield tmp_path / "storage"


class TestOutsideOfARun:
    """The functions of the tasks are usable as they are, without a server."""

    def test_by_threads(self, gateway, credentials, outside, s3_location, moto_client):
        image = generate_image.fn("a fox", credentials=credentials, **SMALL)
        edited = edit_image.fn("add a hat", image, credentials=credentials, **SMALL)
        assert validate_image.fn(edited) is edited
        uploaded = upload_image.fn(edited, destination=s3_location)
        outcome = image_to_s3.fn("a wolf", credentials=credentials, destination=s3_location, **SMALL)
        assert (outcome.status, outcome.attempts) == ("uploaded", 1)
        assert set(objects(s3_location, moto_client).values()) == {uploaded.sha256, outcome.uploaded.sha256}
        assert image.uri.startswith(outside.as_uri())
        assert len(gateway.ledger.billed) == 3

    async def test_by_coroutines(self, gateway, credentials, outside, s3_location, moto_client):
        image = await agenerate_image.fn("a fox", credentials=credentials, **SMALL)
        edited = await aedit_image.fn("add a hat", image, credentials=credentials, **SMALL)
        assert await avalidate_image.fn(edited) is edited
        uploaded = await aupload_image.fn(edited, destination=s3_location)
        outcome = await aimage_to_s3.fn("a wolf", credentials=credentials, destination=s3_location, **SMALL)
        assert outcome.status == "uploaded"
        assert set(objects(s3_location, moto_client).values()) == {uploaded.sha256, outcome.uploaded.sha256}

    def test_nothing_is_shared_between_two_calls(self, gateway, credentials, outside):
        one, other = (generate_image.fn("a fox", credentials=credentials, **SMALL) for _ in range(2))
        assert one.sha256 != other.sha256
        assert len(gateway.ledger.billed) == 2

    def test_the_spool_is_empty_afterwards(self, gateway, credentials, outside):
        generate_image.fn("a fox", credentials=credentials, **SMALL)
        gateway.faults.add("truncated_body")
        with pytest.raises(errors.OutcomeUnknownError):
            generate_image.fn("a wolf", credentials=credentials, **SMALL)
        gateway.faults.add("html_in_200")
        with pytest.raises(errors.MalformedReplyError):
            generate_image.fn("a hare", credentials=credentials, **SMALL)
        assert [path for path in (outside / "n1n" / "spool").rglob("*") if path.is_file()] == []

    def test_an_upload_is_copied_without_its_bytes(self, credentials, outside, s3_location, moto_server, moto_client):
        other = moto_server.location(new_bucket(moto_client))
        uploaded = upload_image.fn(
            generate_image.fn("a fox", credentials=credentials, **SMALL), destination=s3_location
        )
        shutil.rmtree(outside)
        copy = upload_image.fn(uploaded, destination=other)
        assert objects(other, moto_client) == {copy.key: uploaded.sha256}
        assert upload_image.fn(uploaded, destination=other).created is False

    def test_a_copy_whose_source_may_not_be_seen_is_put_from_its_original(
        self, credentials, outside, s3_location, scripted_store
    ):
        """AWS answers 403 in place of 404 to who may not list."""
        there = upload_image.fn(generate_image.fn("a fox", credentials=credentials, **SMALL), destination=s3_location)
        scripted_store.says(Answer(403), Answer(404), Answer(headers={"ETag": '"one"'}))
        upload_image.fn(there, destination=scripted_store.server.location("bucket"))
        put = scripted_store.requests[-1]
        assert (put.method, hashlib.sha256(put.body).hexdigest()) == ("PUT", there.sha256)

    def test_a_copy_whose_source_somebody_replaced_is_put_from_its_original(
        self, n1n_credentials, s3_location, moto_client, caplog
    ):
        image = generate_image.fn("a fox", credentials=n1n_credentials)
        pending = upload_image.fn(image, destination=s3_location)
        body = moto_client.get_object(Bucket=pending.bucket, Key=pending.key)["Body"].read()
        metadata = moto_client.head_object(Bucket=pending.bucket, Key=pending.key)["Metadata"]
        moto_client.put_object(Bucket=pending.bucket, Key=pending.key, Body=b"EVIL" + body[4:], Metadata=metadata)
        copied = upload_image.fn(pending, destination=s3_location, key="published.png")
        assert "was replaced by somebody; its staged original is uploaded instead." in caplog.text
        assert moto_client.get_object(Bucket=copied.bucket, Key=copied.key)["Body"].read() == body

    def test_a_copy_to_a_bucket_that_is_not_there_does_not_say_the_source_is_gone(
        self, credentials, outside, s3_location, caplog
    ):
        there = upload_image.fn(generate_image.fn("a fox", credentials=credentials, **SMALL), destination=s3_location)
        nowhere = s3_location.model_copy(update={"bucket": f"nowhere-{s3_location.bucket}"})
        with pytest.raises(errors.UploadError, match="bucket"):
            upload_image.fn(there, destination=nowhere)
        assert "staged original is uploaded" not in caplog.text

    def test_a_clean_up_that_fails_is_no_failed_image(self, credentials, outside, s3_location, caplog):
        there = upload_image.fn(generate_image.fn("a fox", credentials=credentials, **SMALL), destination=s3_location)
        upload_image.fn(
            generate_image.fn("a hare", credentials=credentials, **SMALL),
            destination=s3_location,
            key=there.key,
            if_exists="replace",
        )
        before = ended_as("failed")
        with pytest.raises(errors.UploadError):
            discard_image.fn(there, location=s3_location)
        with pytest.raises(errors.InvalidRequestError):
            discard_image.fn(there, location=s3_location, published=there)
        assert ended_as("failed") == before
        assert ["UploadError" in caplog.text, "InvalidRequestError" in caplog.text] == [True, True]

    def test_an_invalid_image_that_is_drawn_again_has_not_ended(
        self, gateway, credentials, outside, s3_location, caplog
    ):
        gateway.faults.add("wrong_size", times=2, match="a badger")
        before = ended_as("invalid")
        again = {"credentials": credentials, "destination": s3_location, "on_invalid": "regenerate", **SMALL}
        assert image_to_s3.fn("a badger", regenerations=2, **again).ok
        assert ended_as("invalid") == before
        found = [record.levelname for record in caplog.records if "ImageValidationError" in record.getMessage()]
        assert found == ["WARNING", "WARNING"]
        gateway.faults.add("wrong_size", times=2, match="a stoat")
        assert image_to_s3.fn("a stoat", **again).status == "invalid"
        assert ended_as("invalid") == before + 1
        assert caplog.records[-1].levelname == "ERROR"


def ended_as(outcome):
    """How many images of this process ended so."""
    return sum(point.value for found, point in measured().get("n1n.images", []) if found["n1n.outcome"] == outcome)


# ── editing ──────────────────────────────────────────────────────────────────


class TestEdit:
    @pytest.fixture
    def sources(self, gateway, credentials, outside, s3_location, moto_client, tmp_path, monkeypatch):
        """An input image of every kind, all of the same wide shape."""
        monkeypatch.chdir(tmp_path)
        data = png(96, 54)
        Path("in.png").write_bytes(data)
        moto_client.put_object(Bucket=s3_location.bucket, Key="in/fox.png", Body=data)
        image = generate_image.fn("a fox", credentials=credentials, **{**SMALL, "aspect_ratio": "16:9"})
        gateway.reset()
        return {
            "path": "in.png",
            "Path": Path("in.png"),
            "absolute": tmp_path / "in.png",
            "bytes": data,
            "data": "data:image/png;base64," + base64.b64encode(data).decode(),
            "s3": f"s3://{s3_location.bucket}/in/fox.png",
            "generated": image,
            "uploaded": upload_image.fn(image, destination=s3_location),
        }

    @pytest.mark.parametrize("kind", ["path", "Path", "absolute", "bytes", "data", "s3", "generated", "uploaded"])
    def test_of_any_source(self, gateway, credentials, s3_location, sources, kind):
        given = {"credentials": credentials, "source": s3_location, "model": SMALL["model"], "image_size": "512"}
        image = edit_image.fn("add a hat", sources[kind], **given)
        assert (image.width, image.height) == (688, 384)  # the input's shape
        (call,) = gateway.ledger.billed
        assert call.prompt_excerpt == "add a hat"

    def test_of_all_at_once_and_up_to_fourteen(self, gateway, credentials, s3_location, sources):
        images = [*sources.values(), *(png(10 + number, 10) for number in range(6))]
        assert len(images) == 14
        edit_image.fn("mix them", images, credentials=credentials, source=s3_location, **SMALL)
        with pytest.raises(InvalidRequestError, match="15 input images"):
            edit_image.fn("mix them", [*images, png()], credentials=credentials, source=s3_location, **SMALL)
        assert len(gateway.ledger.calls) == 1

    def test_of_an_edit_of_an_edit(self, gateway, credentials, outside):
        image = generate_image.fn("a fox", credentials=credentials, **SMALL)
        keys = {image.request_key}
        for prompt in ("add a hat", "add a scarf"):
            image = edit_image.fn(prompt, image, credentials=credentials, **SMALL)
            keys.add(image.request_key)
        assert len(keys) == len(gateway.ledger.billed) == 3

    @pytest.mark.parametrize(
        ("images", "kind", "words"),
        [
            ("/etc/passwd", errors.SourceError, "outside"),
            ("../../../etc/passwd", errors.SourceError, "outside"),
            ("nowhere.png", errors.SourceError, "does not exist"),
            ("https://169.254.169.254/latest/meta-data", errors.SourceError, "169.254.169.254"),
            ("http://169.254.169.254/latest/meta-data", errors.SourceError, "https"),
            ("https://127.0.0.1/secret.png", errors.SourceError, "127.0.0.1"),
            ("file:///etc/passwd", errors.SourceError, "file"),
            ("s3://shop/in.png", errors.SourceError, "source="),
            (b"GIF89a\1\0\1\0\0\0\0;", errors.SourceError, "image/gif"),
            (b"<html></html>", errors.SourceError, "no image"),
            (b"\x89PNG\r\n\x1a\n" + b"\0" * 50 * 1024**2, errors.SourceError, "bytes"),
            (png()[:-10], errors.SourceError, "whole file"),
            ([], InvalidRequestError, "at least one image"),
            ((), InvalidRequestError, "at least one image"),
            (None, InvalidRequestError, "NoneType"),
            ({"path": "in.png"}, InvalidRequestError, "dict"),
            ([["in.png"]], InvalidRequestError, "flat list"),
            ("", InvalidRequestError, "names nothing"),
            (ImageOutcome("x", "uploaded"), InvalidRequestError, "uploaded"),
        ],
        ids=lambda value: repr(value)[:40],
    )
    def test_what_may_not_be_read_costs_nothing(self, gateway, credentials, outside, images, kind, words):
        with pytest.raises(kind, match=words):
            edit_image.fn("add a hat", images, credentials=credentials, **SMALL)
        assert gateway.ledger.calls == []

    def test_a_file_that_is_too_large_is_not_even_read(self, gateway, credentials, outside, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with Path("big.png").open("wb") as file:
            file.truncate(50 * 1024**2)
        with pytest.raises(errors.SourceError, match="52428800 bytes"):
            edit_image.fn("add a hat", "big.png", credentials=credentials)
        assert gateway.ledger.calls == []

    def test_an_original_that_is_gone_costs_nothing(self, gateway, credentials, sources, outside):
        shutil.rmtree(outside)
        with pytest.raises(errors.StagingError, match="gone"):
            edit_image.fn("add a hat", sources["generated"], credentials=credentials)
        assert gateway.ledger.calls == []


# ── misuse ───────────────────────────────────────────────────────────────────


class TestMisuse:
    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"prompt": ["a fox", "a wolf"]}, r"use \.map\(prompts\)"),
            ({"prompt": None}, "prompt must be one text"),
            ({"prompt": ""}, "empty"),
            ({"prompt": "  \n"}, "empty"),
            ({"prompt": ImageRequest("x", (b"y",))}, "edit_image"),
            ({"prompt": ImageRequest("x"), "sample": 3}, "one place"),
            ({"aspect_ratio": "16x9"}, "16:9"),
            ({"aspect_ratio": 1.5}, "aspect_ratio"),
            ({"image_size": "1k"}, "1K"),
            ({"image_size": "8K"}, "4K"),
            ({"temperature": 3}, "temperature"),
            ({"temperature": "hot"}, "temperature"),
            ({"seed": 1.5}, "seed"),
            ({"thinking_level": "maximal"}, "thinking_level"),
            ({"extra_body": {"a": object()}}, "JSON"),
            ({"extra_body": "text"}, "extra_body"),
            ({"safety_settings": ["OFF"]}, "safety_settings"),
            ({"credentials": None}, "credentials must be a N1nCredentials block"),
            ({"credentials": "default"}, r"credentials=N1nCredentials\.load"),
            ({"credentials": Path("key.txt")}, "credentials must be a N1nCredentials block"),
            ({"credentials": ("api_key", "x")}, "unmapped"),
            ({"spending": {"unknown_retries": 0}}, "spending"),
        ],
        ids=str,
    )
    async def test_is_named_and_costs_nothing(self, gateway, credentials, outside, given, words):
        given = {"prompt": "a fox", "credentials": credentials, **SMALL, **given}
        if isinstance(given["prompt"], ImageRequest):
            given = {name: value for name, value in given.items() if name not in SMALL}
        with pytest.raises(InvalidRequestError, match=words):
            await asyncio.to_thread(generate_image.fn, **given)
        with pytest.raises(InvalidRequestError, match=words):
            await agenerate_image.fn(**given)
        assert gateway.ledger.calls == []

    @pytest.mark.parametrize("image", [None, "fox.png", {"uri": "x"}, [generated()], uploaded(), b"\x89PNG"], ids=repr)
    def test_what_is_no_image_is_not_validated(self, outside, image):
        with pytest.raises(InvalidRequestError, match="image must be a GeneratedImage"):
            validate_image.fn(image)

    @pytest.mark.parametrize("spec", [{"width": 1}, "16:9", ImageSpec], ids=repr)
    def test_what_is_no_spec_is_not_a_rule(self, outside, spec):
        with pytest.raises(InvalidRequestError, match="spec must be a ImageSpec"):
            validate_image.fn(generated(), spec)

    @pytest.mark.parametrize("image", [None, "fox.png", {"uri": "x"}, [uploaded()], b"\x89PNG"], ids=repr)
    def test_what_is_no_image_is_not_uploaded(self, outside, moto_server, image):
        with pytest.raises(InvalidRequestError, match="image must be a GeneratedImage or UploadedImage"):
            upload_image.fn(image, destination=moto_server.location("shop"))

    @pytest.mark.parametrize(
        "destination", [None, "s3://shop", ("bucket", "shop"), N1nCredentials(api_key="x")], ids=repr
    )
    def test_what_is_no_place_gets_no_image(self, outside, destination):
        with pytest.raises(InvalidRequestError, match="destination"):
            upload_image.fn(generated(), destination=destination)

    def test_a_masked_key_is_refused_at_once(self):
        with pytest.raises(InvalidRequestError, match="asterisks"):
            N1nCredentials(api_key="**********")

    @pytest.mark.prefect
    @pytest.mark.usefixtures("prefect_api")
    def test_of_map(self, gateway, credentials, s3_location):
        said = {}

        def attempt(what, call):
            try:
                futures = call()
                said[what] = " ".join(outcome.reason for outcome in gather_outcomes(futures))
            except Exception as exc:
                said[what] = str(exc)

        @flow(task_runner=ThreadPoolTaskRunner(2))
        def careless():
            prompts = ["a fox", "a wolf"]
            attempt("block", lambda: generate_image.map(prompts, credentials=credentials))
            attempt("place", lambda: upload_image.map([generated()] * 2, destination=s3_location))
            attempt("list", lambda: [generate_image.submit(prompts, credentials=credentials)])
            attempt(
                "images",
                lambda: edit_image.map(prompts, [png(), png(3, 3), png(4, 4)], credentials=unmapped(credentials)),
            )
            attempt("dict", lambda: edit_image.map("a hat", [{"a": 1}], credentials=unmapped(credentials)))

        careless()
        assert gateway.ledger.calls == []
        assert "unmapped(…)" in said["block"]
        assert "unmapped(…)" in said["place"]
        assert ".map(prompts)" in said["list"]
        assert "images" in said["images"]
        assert "dict" in said["dict"]

    @pytest.mark.prefect
    @pytest.mark.usefixtures("prefect_api")
    def test_of_map_as_it_is_meant(self, gateway, credentials):
        @flow(task_runner=ThreadPoolTaskRunner(2))
        def careful():
            both = unmapped([png(), png(3, 3)])
            return edit_image.map(["a hat", "a scarf"], both, credentials=unmapped(credentials), **SMALL).result()

        assert len({image.sha256 for image in careful()}) == len(gateway.ledger.billed) == 2
