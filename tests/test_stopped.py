"""Runs that are stopped from outside in the middle of a call, and what the same run pays when it goes on."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Scheduled
from prefect_aws import AwsCredentials, S3Bucket
from prefect_aws.client_parameters import AwsClientParameters

from n1n_prefect import N1nCredentials, errors, generate_image
from n1n_prefect.staging import spool_folder
from tests.chaos import SMALL, draw_all
from tests.s3_servers import S3Server, free_port

PROMPTS = ["a fox", "a wolf", "a hare"]

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.timeout(240)]


@pytest.fixture
def gateway(n1n_gateway_factory):
    return n1n_gateway_factory(canned=True, grain=False)


def billed(gateway):
    return Counter(call.prompt_excerpt for call in gateway.ledger.billed)


def wait_for(condition, seconds=60):
    for _ in range(seconds * 20):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(f"it did not come to that within {seconds} s")


@contextmanager
def process(*command, **env):
    """A process of its own, whose end is seen to."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen([sys.executable, "-m", *command], env={**os.environ, **env}, **quiet)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


class Run:
    """A flow run of three images, in processes of its own."""

    def __init__(self, gateway, tmp_path, api_url, limit=""):
        self.env = {"PREFECT_API_URL": api_url, "PREFECT_LOCAL_STORAGE_PATH": str(tmp_path / "storage")}
        with temporary_settings({PREFECT_API_URL: api_url}), get_client(sync_client=True) as client:
            if limit:
                client.upsert_global_concurrency_limit_by_name(limit, 8)
            parameters = {"base_url": gateway.base_url, "prompts": PROMPTS, "concurrency_limit": limit}
            self.id = str(client.create_flow_run(draw_all, parameters=parameters).id)
        self.api_url = api_url

    def goes_on(self):
        with temporary_settings({PREFECT_API_URL: self.api_url}), get_client(sync_client=True) as client:
            client.set_flow_run_state(self.id, Scheduled(), force=True)
        return process("tests.chaos", self.id, "3", **self.env)

    def state(self):
        with temporary_settings({PREFECT_API_URL: self.api_url}), get_client(sync_client=True) as client:
            return client.read_flow_run(self.id).state


class TestTerminated:
    """SIGTERM with time to end: a worker's cancellation, a pod that is evicted."""

    def test_the_calls_under_way_are_ended_and_found_by_the_same_run(self, prefect_api, gateway, tmp_path):
        run = Run(gateway, tmp_path, PREFECT_API_URL.value())
        gateway.faults.add("slow", times=3, seconds=3)
        with run.goes_on() as child:
            wait_for(lambda: len(gateway.ledger.calls) == 3)
            child.send_signal(signal.SIGTERM)
            child.wait(30)
        assert not run.state().is_completed()
        with run.goes_on() as child:
            assert child.wait(60) == 0
        assert run.state().is_completed()
        assert billed(gateway) == dict.fromkeys(PROMPTS, 1)


class TestLostServer:
    """The Prefect server goes away in the middle of a call and comes back with the same database."""

    @pytest.fixture
    def server(self, tmp_path):
        port = free_port()
        env = {
            "PREFECT_HOME": str(tmp_path / "home"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLIENT_MAX_RETRIES": "1",
        }

        @contextmanager
        def running():
            with process("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), **env) as child:
                wait_for(lambda: self.answers(port), 120)
                yield child

        running.api_url = f"http://127.0.0.1:{port}/api"
        return running

    @staticmethod
    def answers(port):
        import httpx

        try:
            return httpx.get(f"http://127.0.0.1:{port}/api/health").status_code == 200
        except httpx.HTTPError:
            return False

    @pytest.mark.parametrize("limit", ["", "n1n-shared"], ids=["alone", "with a named limit"])
    def test_what_was_answered_meanwhile_is_found_when_it_is_back(self, server, gateway, tmp_path, limit):
        gateway.faults.add("slow", times=3, seconds=3)
        with server() as api:
            run = Run(gateway, tmp_path, server.api_url, limit)
            run.env["PREFECT_CLIENT_MAX_RETRIES"] = "1"
            with run.goes_on() as child:
                wait_for(lambda: len(gateway.ledger.calls) == 3)
                api.kill()
                child.wait(90)
        with server(), run.goes_on() as child:
            assert child.wait(90) == 0
            assert run.state().is_completed()
        assert billed(gateway) == dict.fromkeys(PROMPTS, 1)


class Bucket:
    """An S3 server of one's own that keeps its objects on disk, so that it can go and come back."""

    def __init__(self, folder):
        self.server = S3Server(f"http://127.0.0.1:{free_port()}", "key-of-ones-own", "secret-of-ones-own")
        self.folder = folder
        (folder / "results").mkdir(parents=True)
        self.child = None

    @property
    def block(self):
        client = {"endpoint_url": self.server.endpoint_url, "config": {"retries": {"total_max_attempts": 2}}}
        block = S3Bucket(
            bucket_name="results",
            credentials=AwsCredentials(
                aws_access_key_id=self.server.access_key,
                aws_secret_access_key=self.server.secret_key,
                region_name="us-east-1",
                aws_client_parameters=AwsClientParameters(**client),
            ),
        )
        block.save("bucket-of-ones-own", overwrite=True)
        return block

    def start(self):
        port = self.server.endpoint_url.rpartition(":")[2]
        rclone = shutil.which("rclone", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        command = [rclone, "serve", "s3", "--config", os.devnull, "--addr", f"127.0.0.1:{port}"]
        keys = ["--auth-key", f"{self.server.access_key},{self.server.secret_key}"]
        self.child = subprocess.Popen([*command, *keys, str(self.folder)], stderr=subprocess.DEVNULL)
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", int(port))) == 0)

    def stop(self):
        self.child.kill()
        self.child.wait()

    def stops_when(self, condition):
        threading.Thread(target=lambda: (wait_for(condition), self.stop())).start()


@pytest.fixture
def own_bucket(tmp_path):
    bucket = Bucket(tmp_path / "bucket")
    bucket.start()
    yield bucket
    bucket.stop()


class TestStorageOutage:
    """The bucket that keeps the results goes away in the middle of a call."""

    def test_the_answer_waits_on_the_local_disk_until_the_bucket_is_back(self, prefect_api, gateway, own_bucket):
        gateway.faults.add("slow", seconds=2)
        credentials = N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url)
        once = generate_image.with_options(retries=0)

        @flow(result_storage=own_bucket.block)
        def draw():
            with pytest.raises(errors.StagingError) as caught:
                once("a fox", credentials=credentials, **SMALL)
            assert caught.value.charged == "yes"
            assert any(spool_folder().glob(f"{caught.value.request_key}-*.reply"))
            own_bucket.start()
            return once("a fox", credentials=credentials, **SMALL)

        own_bucket.stops_when(lambda: gateway.ledger.calls)
        assert len(draw().read_bytes()) > 0
        assert billed(gateway) == {"a fox": 1}
