import asyncio
import base64
import hashlib
import inspect

import cloudpickle
import pytest
from prefect import flow, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

import n1n_prefect
from n1n_prefect import (
    ImageRequest,
    ImageSpec,
    N1nCredentials,
    agenerate_image,
    aupload_image,
    avalidate_image,
    generate_image,
    tasks,
    upload_image,
    validate_image,
)
from n1n_prefect.policies import DELAYS, RETRIES, HintedDelays, PaidOnce, worth_retrying
from n1n_prefect.testing.drawing import Drawing
from tests.examples import generated, uploaded

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
            assert f"        {name}: " in inspect.getsource(a_task.fn), name

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

SMALL = {"model": "gemini-3.1-flash-image", "image_size": "512"}


class Tap(Drawing):
    """Draws, and keeps the hash of every file that goes out."""

    def __init__(self):
        super().__init__(grain=False)
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
    def test_of_threads(self, gateway, credentials, s3_location, moto_client):
        prompts = [f"{words} {'x' * 5000}" for words in ("a fox", "a wolf", "a hare", "an owl", "a deer", "a mole")]

        @flow(task_runner=ThreadPoolTaskRunner(4))
        def chain():
            images = generate_image.map(prompts, credentials=unmapped(credentials), **SMALL)
            checked = validate_image.map(images, ImageSpec(max_edge=512))
            uploads = upload_image.map(checked, destination=unmapped(s3_location), name=["1", "2", "3", "4", "5", "6"])
            return [image.result() for image in images], [upload.result() for upload in uploads]

        images, uploads = chain()
        assert len(gateway.ledger.billed) == 6
        assert [image.sha256 for image in images] == [upload.sha256 for upload in uploads]
        assert sorted(image.sha256 for image in images) == sorted(gateway.drawing.sent)
        assert objects(s3_location, moto_client) == {upload.key: upload.sha256 for upload in uploads}
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
