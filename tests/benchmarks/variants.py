"""The ways to get images into S3 that are compared; each runs alone in a fresh process."""

import asyncio
import base64
import hashlib
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import MEGABYTE, peak_bytes

AT_ONCE = 8
MODEL = "gemini-2.5-flash-image"
API_KEY = "sk-local-gateway"
WARM_UP = 2
BATCH = "a-red-fox-0"  # the id of the batch whose first prompt that is
Run = Callable[[Sequence[str]], Any]


def measured_at_once(variant: str, at_once: int, images: int, gateway: str, endpoint_url: str) -> dict[str, float]:
    """`measured`, with so many images under way, for the variants that can have any number."""
    with VARIANTS[variant](gateway, endpoint_url, at_once) as run:
        return counted_run(run, images)


def measured(variant: str, images: int, gateway: str, endpoint_url: str) -> dict[str, float]:
    """Runs a variant, after a short run that loads what it loads; for a fresh process.

    Returns:
        CPU seconds before it began, its wall seconds, and the most megabytes that the process held.
    """
    with VARIANTS[variant](gateway, endpoint_url) as run:
        return counted_run(run, images)


def counted_run(run: Run, images: int, is_warm: Callable[[], object] = lambda: None) -> dict[str, float]:
    """What a run of so many images took, after a short one; `is_warm` is called between them."""
    run(_prompts("warm up", WARM_UP))
    is_warm()
    before, started = used_seconds(), time.monotonic()
    made = run(_prompts("a red fox", images))
    seconds = time.monotonic() - started
    assert len(set(made)) == len(made) == images, f"{len(set(made))} in {len(made)} rows, of {images}"
    return {"cpu_before": before, "seconds": seconds, "peak_mb": peak_bytes() / MEGABYTE}


def used_seconds() -> float:
    """CPU seconds of this process so far, and of those that it has started and awaited."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _prompts(words: str, count: int) -> list[str]:
    return [f"{words} {number}" for number in range(count)]


# ── without an orchestrator ──────────────────────────────────────────────────


@contextmanager
def bare(gateway: str, endpoint_url: str, at_once: int = AT_ONCE) -> Iterator[Run]:
    """httpx, orjson, base64, hashlib and boto3 on so many threads."""
    import httpx

    s3 = _s3_client(endpoint_url)
    s3.create_bucket(Bucket="bare")
    with httpx.Client(base_url=gateway, headers=_HEADERS, timeout=300) as http:

        def one(prompt: str) -> str:
            data, media_type = _image_in(http.post(_PATH, json=_body(prompt)))
            key = f"images/{hashlib.sha256(data).hexdigest()}.png"
            s3.put_object(Bucket="bare", Key=key, Body=data, ContentType=media_type)
            return key

        with ThreadPoolExecutor(at_once) as threads:
            yield lambda prompts: list(threads.map(one, prompts))


_PATH = f"/v1beta/models/{MODEL}:generateContent"
_HEADERS = {"authorization": f"Bearer {API_KEY}"}


def _body(prompt: str) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": prompt}]}]}


def _image_in(reply: Any) -> tuple[bytes, str]:
    """The first image of a reply, and its media type."""
    import orjson

    parts = orjson.loads(reply.raise_for_status().content)["candidates"][0]["content"]["parts"]
    image = next(part["inlineData"] for part in parts if "inlineData" in part)
    return base64.b64decode(image["data"]), image["mimeType"]


def _s3_client(endpoint_url: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="benchmark",
        aws_secret_access_key="benchmark",
        config=Config(max_pool_connections=64),
    )


# ── the script cut into three tasks, as people write them: no journal, nothing kept, said or verified ──


@contextmanager
def by_hand(gateway: str, endpoint_url: str) -> Iterator[Run]:
    """The bare script as three tasks, mapped on eight threads."""
    import httpx
    from prefect import flow, task
    from prefect.task_runners import ThreadPoolTaskRunner

    with httpx.Client(base_url=gateway, headers=_HEADERS, timeout=300) as http, _putting(endpoint_url) as put:

        @task
        def generate(prompt: str) -> str:
            return _written(http.post(_PATH, json=_body(prompt)))

        validate, upload = task(_verified), task(put)

        @flow(task_runner=ThreadPoolTaskRunner(max_workers=AT_ONCE))
        def three_steps(prompts: list[str]) -> list[str]:
            return upload.map(validate.map(generate.map(prompts))).result()

        yield three_steps


@contextmanager
def aby_hand(gateway: str, endpoint_url: str) -> Iterator[Run]:
    """The same with asynchronous tasks, eight images at once; files and boto3 on threads."""
    import httpx
    from prefect import flow, task

    with _putting(endpoint_url) as put:

        @task
        async def generate(http: httpx.AsyncClient, prompt: str) -> str:
            return await asyncio.to_thread(_written, await http.post(_PATH, json=_body(prompt)))

        @task
        async def validate(path: str) -> str:
            return await asyncio.to_thread(_verified, path)

        @task
        async def upload(path: str) -> str:
            return await asyncio.to_thread(put, path)

        @flow
        async def three_steps(prompts: list[str]) -> list[str]:
            async with httpx.AsyncClient(base_url=gateway, headers=_HEADERS, timeout=300) as http:

                async def one(prompt: str) -> str:
                    return await upload(await validate(await generate(http, prompt)))

                return await _eight_at_once(one, prompts)

        yield lambda prompts: asyncio.run(three_steps(prompts))


@contextmanager
def _putting(endpoint_url: str) -> Iterator[Callable[[str], str]]:
    """A function that puts the file at a path into a bucket; files lie in a folder that is there until then."""
    s3 = _s3_client(endpoint_url)
    s3.create_bucket(Bucket="by-hand")

    def put(path: str) -> str:
        key = f"images/{path}"
        s3.put_object(Bucket="by-hand", Key=key, Body=Path(path).read_bytes(), ContentType="image/png")
        return key

    with tempfile.TemporaryDirectory() as folder, _working_in(folder):
        yield put


def _written(reply: Any) -> str:
    """The path of a file with the reply's image."""
    data, _ = _image_in(reply)
    path = Path(f"{hashlib.sha256(data).hexdigest()}.png")
    path.write_bytes(data)
    return str(path)


def _verified(path: str) -> str:
    from PIL import Image

    with Image.open(path) as image:
        image.verify()
        assert image.width
    return path


# ── Prefect's floor ──────────────────────────────────────────────────────────


@contextmanager
def nothing(gateway: str, endpoint_url: str) -> Iterator[Run]:
    """Three tasks an image that do nothing, mapped on eight threads."""
    from prefect import flow, task
    from prefect.task_runners import ThreadPoolTaskRunner

    @task
    def step(value: str) -> str:
        return value

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=AT_ONCE))
    def three_steps(prompts: list[str]) -> list[str]:
        return step.map(step.map(step.map(prompts))).result()

    yield three_steps


@contextmanager
def anothing(gateway: str, endpoint_url: str) -> Iterator[Run]:
    """Three asynchronous tasks an image that do nothing, eight images at once."""
    from prefect import flow, task

    @task
    async def step(value: str) -> str:
        return value

    async def one(prompt: str) -> str:
        return await step(await step(await step(prompt)))

    @flow
    async def three_steps(prompts: list[str]) -> list[str]:
        return await _eight_at_once(one, prompts)

    yield lambda prompts: asyncio.run(three_steps(prompts))


async def _eight_at_once(one: Callable[[str], Any], prompts: list[str]) -> list[Any]:
    free = asyncio.Semaphore(AT_ONCE)

    async def bounded(prompt: str) -> Any:
        async with free:
            return await one(prompt)

    return await asyncio.gather(*map(bounded, prompts))


# ── ours ─────────────────────────────────────────────────────────────────────


def blocks(gateway: str, endpoint_url: str, at_once: int = AT_ONCE) -> tuple[Any, Any]:
    """Credentials and destination."""
    from n1n_prefect import N1nCredentials, S3Location

    destination = S3Location(
        bucket="ours",
        prefix="images",
        endpoint_url=endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="benchmark",
        aws_secret_access_key="benchmark",
        conditional_put="always",  # as "auto" is on AWS, for which moto stands here
    )
    destination.get_client().create_bucket(Bucket="ours")
    return N1nCredentials(api_key=API_KEY, base_url=gateway, max_in_flight=at_once), destination


@contextmanager
def three_tasks(gateway: str, endpoint_url: str, **options: Any) -> Iterator[Run]:
    """generate_image, validate_image and upload_image, mapped on eight threads."""
    from prefect import flow, unmapped
    from prefect.task_runners import ThreadPoolTaskRunner

    from n1n_prefect import generate_image, upload_image, validate_image

    credentials, destination = blocks(gateway, endpoint_url)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=AT_ONCE), **options)
    def generate_to_s3(prompts: list[str]) -> list[str]:
        images = generate_image.map(prompts, credentials=unmapped(credentials), model=MODEL)
        uploads = upload_image.map(validate_image.map(images), destination=unmapped(destination))
        return [uploaded.key for uploaded in uploads.result()]

    yield generate_to_s3


@contextmanager
def athree_tasks(gateway: str, endpoint_url: str) -> Iterator[Run]:
    """The same with asynchronous tasks, eight images at once."""
    from prefect import flow

    from n1n_prefect import agenerate_image, aupload_image, avalidate_image

    credentials, destination = blocks(gateway, endpoint_url)

    async def one(prompt: str) -> str:
        image = await agenerate_image(prompt, credentials=credentials, model=MODEL)
        return (await aupload_image(await avalidate_image(image), destination=destination)).key

    @flow
    async def generate_to_s3(prompts: list[str]) -> list[str]:
        return await _eight_at_once(one, prompts)

    yield lambda prompts: asyncio.run(generate_to_s3(prompts))


@contextmanager
def one_task(gateway: str, endpoint_url: str) -> Iterator[Run]:
    """image_to_s3, which does all of it in one task an image, mapped on eight threads."""
    from prefect import flow, unmapped
    from prefect.task_runners import ThreadPoolTaskRunner

    from n1n_prefect import image_to_s3

    credentials, destination = blocks(gateway, endpoint_url)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=AT_ONCE))
    def generate_to_s3(prompts: list[str]) -> list[str]:
        blocks = {"credentials": unmapped(credentials), "destination": unmapped(destination)}
        return [outcome.uploaded.key for outcome in image_to_s3.map(prompts, model=MODEL, **blocks).result()]

    yield generate_to_s3


@contextmanager
def batch(
    gateway: str, endpoint_url: str, at_once: int = AT_ONCE, task_runner: Any = None, **options: Any
) -> Iterator[Run]:
    """batch_to_s3: a manifest of the prompts in chunks, with its plan, tables and statistics.

    Args:
        gateway: The gateway's address.
        endpoint_url: The S3 server's.
        at_once: How many calls are under way in each process.
        task_runner: Where chunks are carried out, if not in this process.
        options: Of `batch_to_s3`.
    """
    import orjson

    from n1n_prefect.batch import batch_to_s3

    on_runner = batch_to_s3.with_options(task_runner=task_runner) if task_runner else batch_to_s3
    credentials, destination = blocks(gateway, endpoint_url, at_once)
    with tempfile.TemporaryDirectory() as folder, _working_in(folder):

        def run(prompts: Sequence[str]) -> list[str]:
            manifest = Path(f"{prompts[0].replace(' ', '-')}.jsonl")
            manifest.write_bytes(b"\n".join(orjson.dumps({"prompt": prompt}) for prompt in prompts))
            report = on_runner(str(manifest), credentials, destination, **options)
            return _ids(report, destination)

        yield run


@contextmanager
def _working_in(folder: str) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _ids(report: Any, destination: Any) -> list[str]:
    """The ids of a batch's rows, once each of them is known to have an object of its own."""
    import orjson

    key = report.results.removeprefix(f"s3://{destination.bucket}/")
    table = destination.get_client().get_object(Bucket=destination.bucket, Key=key)["Body"]
    found = [(row["id"], row["uri"]) for row in map(orjson.loads, table.iter_lines(1 << 18))]
    assert len({uri for _, uri in found if uri}) == len(found), "two rows have one object, or a row has none"
    return [name for name, _ in found]


_BY_HAND = (bare, by_hand, aby_hand, nothing, anothing)
_OURS = (three_tasks, athree_tasks, one_task, batch)
VARIANTS: dict[str, Any] = {run.__name__: run for run in (*_BY_HAND, *_OURS)}
