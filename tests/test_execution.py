import asyncio
import base64
import hashlib
import os
import signal
import subprocess
import sys
import time
import uuid
from datetime import timedelta
from pathlib import Path

import pydantic
import pytest
from prefect import flow, task, unmapped
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import LogSort
from prefect.filesystems import LocalFileSystem
from prefect.flow_engine import run_flow
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    temporary_settings,
)
from prefect.states import Scheduled
from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from prefect.transactions import transaction

from n1n_prefect import (
    HintedDelays,
    N1nCredentials,
    PaidOnce,
    Spending,
    agenerate_image,
    edit_image,
    errors,
    gather_outcomes,
    generate_image,
    image_to_s3,
    upload_image,
    validate_image,
)
from n1n_prefect.staging import local_storage
from tests.examples import png
from tests.s3_servers import new_bucket

SMALL = {"model": "gemini-3.1-flash-image", "image_size": "512"}
QUICK = {"retry_delay_seconds": HintedDelays([0.05])}
# Prefect warns about its own log lines there.
OUTSIDE = pytest.mark.filterwarnings("ignore:Logger 'prefect.task_runs':UserWarning")

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_api")]


@pytest.fixture
def gateway(n1n_gateway_factory):
    """A quick gateway; no two of its pictures are equal."""
    return n1n_gateway_factory(canned=True, grain=False)


@pytest.fixture
def credentials(gateway):
    return N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url)


def calls(gateway, prompt):
    """The calls with this prompt, in order."""
    return [call for call in gateway.ledger.calls if call.prompt_excerpt == prompt]


def paid(gateway):
    """How often each prompt was billed."""
    prompts = [call.prompt_excerpt for call in gateway.ledger.billed]
    return {prompt: prompts.count(prompt) for prompt in prompts}


def until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it did not come to that within 60 s")


class TestPaidOnceInARun:
    def test_a_retry_of_the_flow_pays_nothing_again(self, gateway, credentials, s3_location, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("in.png").write_bytes(png(64, 64))
        given, seen = {"credentials": credentials, **SMALL}, []

        @flow
        def completed():
            return generate_image.with_options(cache_policy=NO_CACHE)("subflow", **given).sha256

        @flow
        def broken(fails):
            sha256 = generate_image.with_options(cache_policy=NO_CACHE)("broken subflow", **given).sha256
            if fails:
                raise RuntimeError("the subflow fails once")
            return sha256

        @task
        def of_the_user_s():
            return generate_image("in a task", **given).sha256

        @flow(retries=1)
        def draw():
            seen.append([
                generate_image("default", **given).sha256,
                generate_image.with_options(cache_policy=NO_CACHE)("journal", **given).sha256,
                generate_image.with_options(persist_result=False)("no results", **given).sha256,
                generate_image.with_options(cache_policy=PaidOnce("a name"))("named", **given).sha256,
                edit_image("edit", "in.png", **given).sha256,
                image_to_s3("item", destination=s3_location, **given).image.sha256,
                of_the_user_s(),
                completed(),
            ])  # fmt: skip
            broken(fails=len(seen) == 1)

        draw()
        assert len(seen) == 2
        assert seen[0] == seen[1]
        assert len(set(seen[0])) == 8
        assert set(paid(gateway).values()) == {1}
        assert len(paid(gateway)) == 9

    def test_runs_share_what_has_a_name_and_nothing_else(self, gateway, credentials):
        named = generate_image.with_options(cache_policy=PaidOnce("week-46"))

        @flow
        def draw():
            generate_image("run", credentials=credentials, **SMALL)
            return named("named", credentials=credentials, **SMALL)

        first, second = draw(), draw()
        assert paid(gateway) == {"run": 2, "named": 1}
        assert first.sha256 == second.sha256

    @OUTSIDE
    def test_a_name_is_shared_with_tasks_outside_of_a_flow(self, gateway, credentials):
        named = generate_image.with_options(cache_policy=PaidOnce("outside"))
        for _ in range(2):
            named("named", credentials=credentials, **SMALL)
        assert paid(gateway) == {"named": 1}
        for _ in range(2):
            generate_image("alone", credentials=credentials, **SMALL)
        assert paid(gateway)["alone"] == 2

    def test_a_refresh_pays_anew_once_and_is_found_from_then_on(self, gateway, credentials):
        anew = generate_image.with_options(refresh_cache=True, **QUICK)
        journal_alone = generate_image.with_options(cache_policy=NO_CACHE)

        @flow
        def draw():
            old = generate_image("a fox", credentials=credentials, **SMALL)
            gateway.faults.add("overloaded")
            new = anew("a fox", credentials=credentials, **SMALL)
            return (
                old,
                new,
                generate_image("a fox", credentials=credentials, **SMALL),
                journal_alone("a fox", credentials=credentials, **SMALL),
            )

        old, new, cached, journalled = draw()
        assert paid(gateway) == {"a fox": 2}
        assert not new.reused
        assert new.sha256 == cached.sha256 == journalled.sha256 != old.sha256

    async def test_equal_calls_at_once_are_one(self, gateway, credentials):
        gateway.latency_seconds = 0.2

        @flow
        async def draw():
            calls = (agenerate_image("a fox", credentials=credentials, **SMALL) for _ in range(100))
            return await asyncio.gather(*calls)

        images = await draw()
        assert paid(gateway) == {"a fox": 1}
        assert len({image.sha256 for image in images}) == 1
        assert sum(not image.reused for image in images) == 1

    def test_equal_calls_on_threads_are_one_and_samples_are_several(self, gateway, credentials):
        gateway.latency_seconds = 0.1

        @flow(task_runner=ThreadPoolTaskRunner(12))
        def draw():
            images = generate_image.map(["a fox", "a wolf", "a hare"] * 10, credentials=unmapped(credentials), **SMALL)
            more = generate_image.map("an owl", credentials=unmapped(credentials), sample=[0, 1, 2], **SMALL)
            return images.result(), more.result()

        images, samples = draw()
        assert paid(gateway) == {"a fox": 1, "a wolf": 1, "a hare": 1, "an owl": 3}
        assert len({image.sha256 for image in images}) == 3
        assert len({image.sha256 for image in samples}) == 3

    def test_150_calls_over_five_keys_on_threads(self, gateway, credentials):
        gateway.latency_seconds = 0.1

        @flow(task_runner=ThreadPoolTaskRunner(12))
        def draw():
            prompts = [f"a fox {number % 5}" for number in range(150)]
            return generate_image.map(prompts, credentials=unmapped(credentials), **SMALL).result()

        assert len({image.sha256 for image in draw()}) == 5
        assert set(paid(gateway).values()) == {1}

    def test_twice_inside_a_transaction(self, gateway, credentials):
        @flow
        def draw():
            with transaction():
                return [generate_image("a fox", credentials=credentials, **SMALL) for _ in range(2)]

        first, second = draw()
        assert first.sha256 == second.sha256
        assert paid(gateway) == {"a fox": 1}

    @pytest.mark.parametrize(("expiration", "times"), [(timedelta(hours=1), 1), (timedelta(milliseconds=1), 2)])
    def test_a_name_is_shared_until_it_expires(self, gateway, credentials, expiration, times):
        policy = {"cache_policy": PaidOnce(f"a name for {expiration}"), "cache_expiration": expiration}

        @flow
        def draw():
            return generate_image.with_options(**policy)("a fox", credentials=credentials, **SMALL)

        assert len({draw().sha256 for _ in range(2)}) == times
        assert paid(gateway) == {"a fox": times}

    def test_no_more_calls_are_under_way_than_allowed(self, gateway):
        two = N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url, max_in_flight=2)
        gateway.latency_seconds = 0.1

        @flow(task_runner=ThreadPoolTaskRunner(12))
        def draw():
            on_threads = generate_image.map([f"a {n}" for n in range(5)], credentials=unmapped(two), **SMALL)
            on_loops = agenerate_image.map([f"b {n}" for n in range(5)], credentials=unmapped(two), **SMALL)
            return on_threads.result() + on_loops.result()

        assert len(draw()) == 10
        assert gateway.ledger.most_in_flight == 2

    async def test_a_named_limit_holds_too(self, gateway):
        given = {"api_key": gateway.api_key, "base_url": gateway.base_url}
        one = N1nCredentials(**given, concurrency_limit="n1n-one")
        none = N1nCredentials(**given, concurrency_limit="n1n-none")
        gateway.latency_seconds = 0.1
        async with get_client() as client:
            await client.upsert_global_concurrency_limit_by_name("n1n-one", 1)

        @flow
        async def draw():
            with pytest.raises(errors.InvalidRequestError, match="prefect gcl create n1n-none"):
                await agenerate_image("a hare", credentials=none, spending=Spending("fail"), **SMALL)
            calls = (agenerate_image(prompt, credentials=one, **SMALL) for prompt in ("a fox", "a wolf"))
            images = await asyncio.gather(*calls)
            given = {"credentials": credentials_without, "spending": Spending("fail")}
            return [*images, await agenerate_image("a hare", **given, **SMALL)]

        credentials_without = N1nCredentials(**given)
        assert len(await draw()) == 3
        assert gateway.ledger.most_in_flight == 1
        assert paid(gateway) == {"a fox": 1, "a wolf": 1, "a hare": 1}

    def test_the_call_that_would_pass_the_ceiling_is_not_made(self, gateway, credentials):
        given = {"credentials": credentials, "spending": Spending(max_usd_per_run=0.1)}  # two and a half images

        @flow
        def draw():
            gateway.faults.add("bad_request", match="not charged")
            with pytest.raises(errors.InvalidRequestError):
                generate_image("not charged", **given)
            for prompt in ("one", "one", "two"):
                generate_image(prompt, **given)
            with pytest.raises(errors.BudgetExceededError, match="max_usd_per_run"):
                generate_image("three", **given)
            return generate_image("one", **given)

        draw()
        assert paid(gateway) == {"one": 1, "two": 1}
        draw()
        assert paid(gateway) == {"one": 2, "two": 2}


class TestRetries:
    async def test_go_by_what_happened(self, gateway, credentials):
        gateway.faults.add("rate_limited", match="limited", seconds=1)
        gateway.faults.add("rate_limited_retry_info", match="hinted", seconds=1.5)
        gateway.faults.add("rate_limited", times=None, match="impatient", seconds=10)
        gateway.faults.add("bad_gateway", times=2, match="flaky")
        gateway.faults.add("overloaded", times=None, match="broken")
        gateway.faults.add("no_image", times=None, match="nothing")
        gateway.faults.add("close_before_reply", times=None, match="lost")
        for fault in ("daily_quota", "unauthorized", "prohibited_content", "quota_exhausted", "no_channel"):
            gateway.faults.add(fault, times=None, match=fault)
        draw_one = agenerate_image.with_options(retries=3, **QUICK)
        patience = Spending(max_wait_seconds=5)
        prompts = ["limited", "hinted", "impatient", "flaky", "broken", "nothing", "lost"]
        prompts += ["daily_quota", "unauthorized", "prohibited_content", "quota_exhausted", "no_channel"]

        @flow
        async def draw():
            drawn = (draw_one(prompt, credentials=credentials, spending=patience, **SMALL) for prompt in prompts)
            return await asyncio.gather(*drawn, return_exceptions=True)

        ended = dict(zip(prompts, await draw(), strict=True))
        assert {prompt: len(calls(gateway, prompt)) for prompt in prompts} == {
            "limited": 2, "hinted": 2, "impatient": 1, "flaky": 3, "broken": 4, "nothing": 2, "lost": 2,
            "daily_quota": 1, "unauthorized": 1, "prohibited_content": 1, "quota_exhausted": 1, "no_channel": 1,
        }  # fmt: skip
        assert [ended[prompt].width for prompt in ("limited", "hinted", "flaky")] == [704] * 3
        assert {prompt: type(error) for prompt, error in ended.items() if isinstance(error, Exception)} == {
            "impatient": errors.RateLimitError,
            "broken": errors.GatewayError,
            "nothing": errors.NoImageError,
            "lost": errors.OutcomeUnknownError,
            "daily_quota": errors.QuotaError,
            "unauthorized": errors.AuthenticationError,
            "prohibited_content": errors.RefusedError,
            "quota_exhausted": errors.QuotaError,
            "no_channel": errors.ModelNotAvailableError,
        }
        assert "max_wait_seconds=5" in str(ended["impatient"])
        assert "gemini-3.1-flash-image" in str(ended["no_channel"])
        for prompt, seconds in (("limited", 1), ("hinted", 1.5)):
            first, second = calls(gateway, prompt)
            assert second.at - first.at >= timedelta(seconds=seconds)

    def test_on_threads_wait_as_long_as_the_server_says(self, gateway, credentials):
        gateway.faults.add("rate_limited", match="a fox", seconds=1)

        @flow
        def draw():
            quick = generate_image.with_options(**QUICK)
            return quick.map(["a fox", "a wolf"], credentials=unmapped(credentials), **SMALL).result()

        assert len(draw()) == 2
        first, second = calls(gateway, "a fox")
        assert second.at - first.at >= timedelta(seconds=1)

    def test_after_a_timeout_of_the_task_follow_the_spending(self, gateway, credentials):
        gateway.faults.add("slow", match="once", seconds=1.5)
        gateway.faults.add("slow", match="careful", times=None, seconds=1.5)
        impatient = generate_image.with_options(timeout_seconds=0.5, retries=2, **QUICK)

        @flow
        def draw():
            image = impatient("once", credentials=credentials, **SMALL)
            with pytest.raises(errors.OutcomeUnknownError):
                impatient("careful", credentials=credentials, spending=Spending("fail"), **SMALL)
            return image

        assert draw().width == 704
        assert paid(gateway) == {"once": 2, "careful": 1}

    async def test_after_a_timeout_of_an_asynchronous_task_too(self, gateway, credentials):
        gateway.faults.add("slow", match="once", seconds=1.5)
        impatient = agenerate_image.with_options(timeout_seconds=0.5, retries=2, **QUICK)

        @flow
        async def draw():
            return await impatient("once", credentials=credentials, **SMALL)

        assert (await draw()).width == 704
        assert paid(gateway) == {"once": 2}

    def test_in_processes_of_their_own(self, gateway, credentials):
        gateway.faults.add("rate_limited", match="a fox", seconds=1)
        gateway.faults.add("prohibited_content", match="a wolf")

        @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
        def draw():
            quick = generate_image.with_options(**QUICK)
            images = quick.map(["a fox", "a wolf"], credentials=unmapped(credentials), **SMALL)
            return gather_outcomes(images), gather_outcomes(validate_image.map(images))

        for drawn in draw():
            assert [outcome.status for outcome in drawn] == ["pending", "refused"]
            assert "PROHIBITED_CONTENT" in drawn[1].reason
            assert drawn[1].charged == "unknown"
        first, second = calls(gateway, "a fox")
        assert second.at - first.at >= timedelta(seconds=1)

    def test_a_failure_that_prefect_says_nothing_about_is_in_the_log(self, gateway, credentials, caplog):
        gateway.faults.add("unauthorized")

        @flow
        def draw():
            generate_image("a fox", credentials=credentials, return_state=True, **SMALL)
            generate_image(["a", "b"], credentials=credentials, return_state=True)
            generate_image("a fox", credentials="my-block", return_state=True)

        draw()
        said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert any("AuthenticationError" in line and "Not charged." in line for line in said)
        assert any(line.startswith("InvalidRequestError") and ".map(prompts)" in line for line in said)
        assert any(line.startswith("InvalidRequestError") and "not str" in line for line in said)
        assert gateway.api_key not in "".join(said)


# ── where originals are ──────────────────────────────────────────────────────


def bucket_block(server, client):
    """A prefect-aws bucket on the local S3 server."""
    from prefect_aws import AwsClientParameters, AwsCredentials, S3Bucket

    keys = AwsCredentials(
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=server.endpoint_url),
    )
    return S3Bucket(bucket_name=new_bucket(client), bucket_folder="flows", credentials=keys)


def saved(block, name):
    block.save(name, overwrite=True)
    return block


def result_files(folder):
    """Files of Prefect's own in a storage, beside ours."""
    return [path for path in Path(folder).rglob("*") if path.is_file() and "n1n" not in path.relative_to(folder).parts]


class TestStaging:
    @pytest.fixture(params=["default", "path", "saved folder", "saved bucket", "setting"])
    def flow_options(self, request, tmp_path, moto_server, moto_client):
        """Every way to say where results are kept."""
        if request.param == "setting":
            saved(bucket_block(moto_server, moto_client), "n1n-by-setting")
            with temporary_settings({PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK: "s3-bucket/n1n-by-setting"}):
                yield {}
            return
        yield {
            "default": dict,
            "path": lambda: {"result_storage": tmp_path / "here"},
            "saved folder": lambda: {
                "result_storage": saved(LocalFileSystem(basepath=str(tmp_path / "there")), "n1n-there")
            },
            "saved bucket": lambda: {"result_storage": saved(bucket_block(moto_server, moto_client), "n1n-bucket")},
        }[request.param]()

    def test_is_where_the_results_are(self, gateway, credentials, flow_options):
        given = {"credentials": unmapped(credentials), **SMALL}

        @flow(retries=1, **flow_options)
        def draw():
            images = [generate_image("direct", credentials=credentials, **SMALL)]
            images += generate_image.map(["mapped"], **given).result()
            images += agenerate_image.map(["asynchronous"], **given).result()
            images += generate_image.with_options(cache_policy=NO_CACHE).map(["journal"], **given).result()
            assert all(len(image.read_bytes()) == image.size_bytes for image in images)
            if len(seen) == 0:
                seen.extend(images)
                raise RuntimeError("once")
            return images

        seen = []
        images = draw()
        assert set(paid(gateway).values()) == {1}
        assert [image.sha256 for image in images] == [image.sha256 for image in seen]
        storage = flow_options.get("result_storage")
        for image in images:
            assert len(image.read_bytes()) == image.size_bytes
            if isinstance(storage, Path):
                assert image.uri.startswith(storage.as_uri())
            elif storage is None and not image.storage_block_id:
                assert image.uri.startswith(local_storage().root.as_uri())
            else:
                assert image.uri.startswith(("s3://", "file://"))
                assert image.storage_block_id

    async def test_of_coroutines(self, credentials, moto_server, moto_client):
        bucket = bucket_block(moto_server, moto_client)
        await bucket.save("n1n-async", overwrite=True)

        @flow(result_storage=bucket)
        async def draw():
            image = await agenerate_image("a fox", credentials=credentials, **SMALL)
            assert len(await image.aread_bytes()) == image.size_bytes
            assert len(image.read_bytes()) == image.size_bytes
            return image

        image = await draw()
        assert image.uri.startswith(f"s3://{bucket.bucket_name}/flows/n1n/originals/")
        assert len(await image.aread_bytes()) == image.size_bytes

    def test_another_process_reads_what_is_in_a_saved_storage(self, credentials, tmp_path, moto_server, moto_client):
        folder = saved(LocalFileSystem(basepath=str(tmp_path / "shared")), "n1n-shared")
        bucket = saved(bucket_block(moto_server, moto_client), "n1n-shared-bucket")

        def draw(prompt):
            return generate_image(prompt, credentials=credentials, **SMALL)

        images = [flow(draw, result_storage=storage)("a fox") for storage in (folder, bucket)]
        code = (
            "import sys, pydantic; from n1n_prefect import GeneratedImage;"
            "images = pydantic.TypeAdapter(list[GeneratedImage]).validate_json(sys.stdin.read());"
            "print([len(image.read_bytes()) for image in images])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=pydantic.TypeAdapter(list[type(images[0])]).dump_json(images),
            env={**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()},
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert done.stdout.decode().strip() == str([image.size_bytes for image in images]), done.stderr.decode()

    def test_a_storage_whose_block_was_deleted_is_named(self, credentials, tmp_path):
        folder = saved(LocalFileSystem(basepath=str(tmp_path / "gone")), "n1n-gone")

        @flow(result_storage=folder)
        def draw():
            return generate_image("a fox", credentials=credentials, **SMALL)

        image = draw()
        LocalFileSystem.delete("n1n-gone")
        with pytest.raises(errors.StagingError, match="ObjectNotFound") as caught:
            image.read_bytes()
        assert not caught.value.is_transient

    @OUTSIDE
    def test_outside_of_a_flow_it_is_the_local_folder(self, credentials):
        image = generate_image("a fox", credentials=credentials, **SMALL)
        assert image.uri.startswith(local_storage().root.as_uri())
        assert len(image.read_bytes()) == image.size_bytes

    def test_one_that_cannot_be_written_spends_nothing(self, gateway, credentials, tmp_path):
        (tmp_path / "n1n").write_bytes(b"in the way")

        @flow(result_storage=tmp_path)
        def draw():
            return generate_image.with_options(retries=1, **QUICK)("a fox", credentials=credentials, **SMALL)

        with pytest.raises(errors.StagingError):
            draw()
        assert gateway.ledger.calls == []

    def test_a_spool_that_cannot_be_written_spends_nothing(self, gateway, credentials, tmp_path):
        (tmp_path / "storage").write_bytes(b"in the way")
        careful = {"credentials": credentials, "spending": Spending("fail"), **SMALL}

        @flow(result_storage=tmp_path / "results")
        def draw():
            with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "storage"}):
                with pytest.raises(errors.StagingError, match="nothing was sent") as caught:
                    generate_image.with_options(retries=0)("a fox", **careful)
                assert caught.value.charged == "no"
                assert gateway.ledger.calls == []
            return generate_image("a fox", **careful)

        assert draw().width == 704
        assert paid(gateway) == {"a fox": 1}

    def test_a_result_is_small_and_holds_no_secret(self, gateway, credentials, tmp_path):
        gateway.api_keys = (gateway.api_key, "sk-" + "s" * 40)
        secret = N1nCredentials(api_key="sk-" + "s" * 40, base_url=gateway.base_url)
        gateway.models = (model := "m" * 100,)
        gateway.faults.add("substituted_model", model="v" * 100)

        @flow(result_storage=tmp_path)
        def draw():
            return generate_image("ä 🦊 " * 2000, credentials=secret, aspect_ratio="16:9", model=model, image_size="4K")

        image = draw()
        assert image.text
        assert [path.stat().st_size <= 3000 for path in result_files(tmp_path)] == [True, True]  # task and flow
        data = image.read_bytes()
        for path in tmp_path.rglob("*"):
            if path.is_file():
                assert b"s" * 40 not in path.read_bytes()
                assert "originals" in path.parts or data[1000:1064] not in path.read_bytes()

    def test_a_result_of_many_inputs_is_small_too(self, gateway, credentials, s3_location, moto_client, tmp_path):
        keys = [f"{number:02}/" + "long name/" * 40 + "ä.png" for number in range(14)]
        pictures = [png(20 + number, 20) for number in range(14)]
        sha256_of = [hashlib.sha256(data).hexdigest() for data in pictures]
        for key, data in zip(keys, pictures, strict=True):
            moto_client.put_object(Bucket=s3_location.bucket, Key=key, Body=data)

        @flow(result_storage=tmp_path)
        def edit():
            addresses = [f"s3://{s3_location.bucket}/{key}" for key in keys]
            return edit_image("ä 🦊 " * 2000, addresses, credentials=credentials, source=s3_location, **SMALL)

        image = edit()
        assert image.inputs == (f"s3://{s3_location.bucket}/{keys[0]}", f"sha256:{sha256_of[1]}", "and 12 more")
        sizes = [path.stat().st_size for path in result_files(tmp_path)]
        assert sizes
        assert max(sizes) <= 3000


class TestWhatIsLeftBehind:
    def test_no_secret_and_no_pixels_but_in_the_originals(self, gateway, moto_server, moto_client):
        key = "sk-" + uuid.uuid4().hex
        gateway.api_keys = (key,)
        credentials = N1nCredentials(api_key=key, base_url=gateway.base_url)
        location = moto_server.location(new_bucket(moto_client), prefix="left-behind")
        gateway.faults.add("key_echoed", match="unlucky")

        @flow(persist_result=True)
        def draw():
            generate_image("unlucky", credentials=credentials, return_state=True, **SMALL)
            image = generate_image("a fox", credentials=credentials, **SMALL)
            upload_image(
                edit_image("a hat", image.read_bytes(), credentials=credentials, **SMALL), destination=location
            )
            return image_to_s3("a wolf", credentials=credentials, destination=location, **SMALL)

        outcome = draw()
        until(lambda: logged(f"Uploaded s3://{location.bucket}"))
        data = outcome.image.read_bytes()
        middle = data[len(data) // 2 :][:48]
        secrets = [key.encode(), location.aws_secret_access_key.get_secret_value().encode(), middle]
        secrets += [base64.b64encode(middle[start:])[:40] for start in range(3)]
        database = Path(PREFECT_SERVER_DATABASE_CONNECTION_URL.value().partition(":///")[2])
        files = [path for path in PREFECT_HOME.value().rglob("*") if path.is_file()]
        files += database.parent.glob("*.db*")
        found = [path for path in files if any(secret in path.read_bytes() for secret in secrets)]
        assert database in files
        assert {path.parts[-3:-1] for path in found} == {("n1n", "originals")}


def logged(words):
    """Whether the server has a log line that begins with these words."""
    with get_client(sync_client=True) as client:
        return any(log.message.startswith(words) for log in client.read_logs(limit=50, sort=LogSort.TIMESTAMP_DESC))


# ── killed ───────────────────────────────────────────────────────────────────


class TestKilled:
    async def test_the_same_run_pays_for_nothing_that_was_answered(self, gateway, tmp_path):
        from tests.killable import draw_five

        gateway.faults.add("slow", times=None, match="lost", seconds=120)
        async with get_client() as client:
            flow_run = await client.create_flow_run(draw_five, parameters={"base_url": gateway.base_url})
            child = await asyncio.to_thread(self.run_and_kill, gateway, flow_run.id, tmp_path / "reached")
            assert child.returncode == -signal.SIGKILL
            assert paid(gateway) == {"answered": 1, "read": 1, "lost": 1, "lost, careful": 1}
            gateway.faults.clear()
            await client.set_flow_run_state(flow_run.id, Scheduled(), force=True)
            flow_run = await client.read_flow_run(flow_run.id)
        ended = await run_flow(draw_five, flow_run=flow_run)
        error = ended.pop("lost, careful")
        assert isinstance(error, errors.OutcomeUnknownError)
        assert (error.is_transient, error.charged) == (False, "unknown")
        assert {name: image.width for name, image in ended.items()} == {
            "answered": 704, "read": 1024, "lost": 704, "waiting": 704,
        }  # fmt: skip
        assert paid(gateway) == {"answered": 1, "read": 1, "lost": 2, "lost, careful": 1, "waiting": 1}

    def run_and_kill(self, gateway, flow_run_id, reached):
        command = [sys.executable, "-m", "tests.killable", str(flow_run_id), str(reached)]
        child = subprocess.Popen(command, env={**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value()})
        try:
            until(lambda: (reached.exists() and len(gateway.ledger.calls) == 4) or child.poll() is not None)
            time.sleep(0.3)  # for the one that waits
        finally:
            child.kill()
            child.wait()
        return child
