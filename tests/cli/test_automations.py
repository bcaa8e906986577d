"""The automations that `n1n-prefect setup` makes, on a real server: that they fire, and when they do not."""

import contextlib
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from n1n_prefect.review_deadlines import EXPIRED, RUN_OUT
from tests.prefect_server import PrefectServer, wait_for

pytestmark = pytest.mark.prefect

SILENT_SECONDS = 10  # the least that Prefect takes
SETTLING_SECONDS = 10
FLOW = """
import sys
from prefect import flow, tags, unmapped
from n1n_prefect import N1nCredentials, gather_outcomes, generate_image

@flow
def small(prompts: list[str], credentials: N1nCredentials) -> int:
    images = generate_image.with_options(retries=0).map(prompts, credentials=unmapped(credentials))
    return len(gather_outcomes(images))

if __name__ == "__main__":
    small(sys.argv[2:], N1nCredentials.load(sys.argv[1]))
"""


class Hook:
    """A webhook on this machine, and what it was sent."""

    def __init__(self) -> None:
        self.sent: list[dict[str, str]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"

    def about(self, run: str) -> list[dict[str, str]]:
        return [message for message in self.sent if run in message["text"]]


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.server.shutdown()
    hook.server.server_close()


@pytest.fixture(scope="module")
def server(setup_server: PrefectServer, hook: Hook) -> PrefectServer:
    """The server, with the automations and a notification block."""
    make = (
        "from prefect.blocks.notifications import CustomWebhookNotificationBlock as W; import sys; "
        "W(name='team', url=sys.argv[1], json_data={'text': '{{subject}} | {{body}}'}).save('n1n-team', overwrite=True)"
    )
    setup_server.run("python", "-c", make, hook.url)
    argv = (
        "--automations",
        "--overwrite",
        "--notify",
        "custom-webhook/n1n-team",
        "--silent-after",
        str(SILENT_SECONDS),
    )
    setup_server.run("n1n-prefect", "setup", *argv, "--work-pool", "automated")
    (goes_on,) = setup_server.post("/automations/filter", automations={"name": {"any_": ["n1n: crashed run goes on"]}})
    goes_on["trigger"]["within"] = SETTLING_SECONDS
    path = f"{setup_server.api_url}/automations/{goes_on['id']}"
    told = {name: value for name, value in goes_on.items() if name not in ("id", "created", "updated")}
    httpx.put(path, json=told).raise_for_status()
    return setup_server


@pytest.fixture
def deployment(server: PrefectServer) -> dict:
    """A deployment that nobody takes work of."""
    flow = server.post("/flows/", name=f"automated-{uuid.uuid4().hex[:8]}")
    return server.post("/deployments/", name="small", flow_id=flow["id"], work_pool_name="automated", tags=["n1n"])


def run_of(server: PrefectServer, deployment: dict, *tags: str) -> str:
    return server.post(f"/deployments/{deployment['id']}/create_flow_run", tags=list(tags))["id"]


def set_state(server: PrefectServer, run: str, kind: str, name: str | None = None, message: str = "") -> None:
    state = {"type": kind, "name": name, "message": message}
    answer = server.post(f"/flow_runs/{run}/set_state", state=state, force=True)
    assert answer["status"] == "ACCEPT", answer


def state_of(server: PrefectServer, run: str) -> dict:
    return server.get(f"/flow_runs/{run}")["state"]


def is_in(server: PrefectServer, run: str, kind: str) -> bool:
    return state_of(server, run)["type"] == kind


def acted_on(server: PrefectServer, run: str) -> list[str]:
    """Names of the automations whose action was executed with a run as its target."""
    filter_ = {
        "event": {"name": ["prefect.automation.action.executed"]},
        "related": {"id": [f"prefect.flow-run.{run}"]},
    }
    return [
        event["resource"]["prefect.resource.name"] for event in server.post("/events/filter", filter=filter_)["events"]
    ]


def send(
    server: PrefectServer, event: str, resource: dict, *, related: list[dict], payload: dict | None = None
) -> None:
    said = {
        "id": str(uuid.uuid4()),
        "occurred": datetime.now(timezone.utc).isoformat(),
        "event": event,
        "resource": resource,
        "related": related,
        "payload": payload or {},
    }
    httpx.post(f"{server.api_url}/events", json=[said], timeout=30).raise_for_status()


def heartbeat(server: PrefectServer, run: str, *tags: str) -> None:
    related = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in tags]
    send(server, "prefect.flow-run.heartbeat", {"prefect.resource.id": f"prefect.flow-run.{run}"}, related=related)


class TestPeopleAreTold:
    @pytest.fixture
    def drawn(self, server: PrefectServer, tmp_path: Path, n1n_gateway_factory):
        """A flow run of so many prompts under a fault, by its name."""

        def drawn(fault: str, *prompts: str) -> str:
            gateway = n1n_gateway_factory(canned=True, grain=False)
            gateway.faults.add(fault, times=None)
            make = (
                "from n1n_prefect import N1nCredentials; import sys; "
                "N1nCredentials(api_key=sys.argv[1], base_url=sys.argv[2]).save('told', overwrite=True)"
            )
            server.run("python", "-c", make, gateway.api_key, gateway.base_url)
            file = tmp_path / "flow.py"
            file.write_text(FLOW)
            said = server.run("python", str(file), "told", *prompts, check=False)
            return said.partition("Beginning flow run '")[2].partition("'")[0]

        return drawn

    def test_of_a_used_up_quota_once_a_run(self, server, hook, drawn):
        run = drawn("quota_exhausted", "one", "two")
        assert run
        wait_for(lambda: hook.about(run), "the notification")
        later = drawn("quota_exhausted", "three")
        wait_for(lambda: hook.about(later), "the notification of a later run")
        (message,) = hook.about(run)
        assert message["text"].startswith(f"n1n: QuotaError in flow run {run} | ")
        assert "balance" in message["text"].lower() or "quota" in message["text"].lower()
        assert f"{server.ui_url}/runs/flow-run/" in message["text"]

    def test_of_a_refused_image(self, server, hook, drawn):
        run = drawn("IMAGE_SAFETY", "one")
        wait_for(lambda: hook.about(run), "the notification")
        (message,) = hook.about(run)
        assert message["text"].startswith(f"n1n: image refused in flow run {run} | ")


class TestReviews:
    def test_people_are_told_of_one_that_is_wanted(self, server, hook, deployment):
        run = run_of(server, deployment)
        send(
            server,
            "n1n.review.requested",
            {"prefect.resource.id": f"n1n.review.{run}.review"},
            related=[{"prefect.resource.id": f"prefect.flow-run.{run}", "prefect.resource.role": "flow-run"}],
            payload={"images": 3, "deadline": "2030-01-01T12:00:00+00:00"},
        )
        name = server.get(f"/flow_runs/{run}")["name"]
        wait_for(lambda: hook.about(name), "the notification")
        told = hook.about(name)[0]["text"]
        assert told.startswith(f"n1n: flow run {name} waits for a decision | About 3 images, until 2030-01-01T12:00:00")

    def test_one_whose_time_is_up_starts_the_run_again(self, server, deployment):
        run, other = run_of(server, deployment), run_of(server, deployment)
        set_state(server, other, "FAILED", message="Something else.")
        set_state(server, run, "FAILED", message=RUN_OUT)
        wait_for(lambda: is_in(server, run, "SCHEDULED"), "the run to be scheduled again")
        assert state_of(server, run)["name"] == EXPIRED
        assert is_in(server, other, "FAILED")


class TestBudget:
    def test_reached_pauses_the_deployment_and_tells(self, server, hook, deployment):
        run = run_of(server, deployment)
        set_state(server, run, "RUNNING")
        set_state(server, run, "FAILED", "OverBudget", "1 uploaded. The ceiling of $1.00 is reached.")
        wait_for(lambda: server.get(f"/deployments/{deployment['id']}")["paused"], "the deployment to be paused")
        name = server.get(f"/flow_runs/{run}")["name"]
        wait_for(lambda: hook.about(name), "the notification")
        assert "The ceiling of $1.00 is reached." in hook.about(name)[0]["text"]

    def test_another_failure_does_not(self, server, deployment):
        run, over = run_of(server, deployment), run_of(server, deployment)
        set_state(server, run, "FAILED", "Failed", "something else")
        assert not server.get(f"/deployments/{deployment['id']}")["paused"]
        set_state(server, over, "FAILED", "OverBudget")
        wait_for(lambda: server.get(f"/deployments/{deployment['id']}")["paused"], "the deployment to be paused")
        assert acted_on(server, run) == []


class TestCrashed:
    def test_goes_on_under_its_id_and_not_for_ever(self, server, deployment):
        run = run_of(server, deployment)
        for kind in ("RUNNING", "RUNNING"):
            set_state(server, run, kind)
            set_state(server, run, "CRASHED", message="The worker was lost.")
            wait_for(lambda: is_in(server, run, "SCHEDULED"), "the run to be scheduled again")
            assert state_of(server, run)["message"] == "It crashed, and goes on under its own id."
        set_state(server, run, "RUNNING")
        assert server.get(f"/flow_runs/{run}")["run_count"] == 3
        set_state(server, run, "CRASHED")
        self.after_another(server, deployment)
        assert is_in(server, run, "CRASHED")

    def test_that_is_reported_twice_goes_on(self, server, deployment):
        run = run_of(server, deployment)
        set_state(server, run, "RUNNING")
        set_state(server, run, "CRASHED", message="Process exited with status code: -9.")
        wait_for(lambda: state_of(server, run)["name"] == "GoesOn", "the run to be marked")
        set_state(server, run, "CRASHED", message="Flow run infrastructure exited with non-zero status code -9.")
        wait_for(lambda: is_in(server, run, "SCHEDULED"), "the run to be scheduled again")

    def test_that_somebody_cancelled_in_time_stays(self, server, deployment):
        run = run_of(server, deployment)
        set_state(server, run, "RUNNING")
        set_state(server, run, "CRASHED")
        wait_for(lambda: state_of(server, run)["name"] == "GoesOn", "the run to be marked")
        set_state(server, run, "CANCELLED")
        later = self.after_another(server, deployment)
        wait_for(lambda: is_in(server, later, "SCHEDULED"), "a run that crashed later to be scheduled")
        assert is_in(server, run, "CANCELLED")

    def test_without_having_run_again_stays(self, server, deployment):
        run = run_of(server, deployment)
        set_state(server, run, "CRASHED", message="The image cannot be pulled.")
        self.after_another(server, deployment)
        assert is_in(server, run, "CRASHED")
        set_state(server, run, "RUNNING")
        set_state(server, run, "CRASHED")
        wait_for(lambda: is_in(server, run, "SCHEDULED"), "the run to be scheduled again")
        set_state(server, run, "CRASHED", message="The image cannot be pulled.")
        self.after_another(server, deployment)
        assert is_in(server, run, "CRASHED")

    def test_without_the_tag_stays(self, server, deployment):
        flow = server.post("/flows/", name="others")
        other = server.post("/deployments/", name="others", flow_id=flow["id"], work_pool_name="automated")
        run = run_of(server, other)
        set_state(server, run, "RUNNING")
        set_state(server, run, "CRASHED")
        self.after_another(server, deployment)
        assert is_in(server, run, "CRASHED")

    def after_another(self, server: PrefectServer, deployment: dict) -> str:
        """A run that crashed later, once the server has got to it, so that it has done what it would do before."""
        run = run_of(server, deployment)
        set_state(server, run, "RUNNING")
        set_state(server, run, "CRASHED")
        wait_for(lambda: state_of(server, run)["name"] == "GoesOn", "a run that crashed later to be marked")
        return run


class TestSilent:
    def test_is_set_to_crashed_and_goes_on(self, server, deployment):
        run = run_of(server, deployment)
        set_state(server, run, "RUNNING")
        heartbeat(server, run, "n1n")
        wait_for(lambda: is_in(server, run, "SCHEDULED"), "the silent run to go on")
        history = [state["message"] for state in server.get(f"/flow_run_states/?flow_run_id={run}")]
        assert f"No heartbeat for {SILENT_SECONDS} s: its process or machine is gone." in history

    def test_but_not_one_that_ended_or_beats_on(self, server, deployment):
        ended, beating, untagged, silent = (run_of(server, deployment) for _ in range(4))
        for run in (ended, beating, untagged, silent):
            set_state(server, run, "RUNNING")
        heartbeat(server, silent, "n1n")
        heartbeat(server, ended, "n1n")
        heartbeat(server, untagged)
        set_state(server, ended, "FAILED", "OfAnyName")

        def gone_on() -> bool:
            heartbeat(server, beating, "n1n")
            return is_in(server, silent, "SCHEDULED")

        wait_for(gone_on, "the silent run to go on")
        for _ in range(SILENT_SECONDS):  # and as long again
            heartbeat(server, beating, "n1n")
            time.sleep(1)
        assert is_in(server, ended, "FAILED")
        assert is_in(server, beating, "RUNNING")
        assert is_in(server, untagged, "RUNNING")


DRAW = """
from prefect import flow, unmapped
from prefect.task_runners import ThreadPoolTaskRunner
from n1n_prefect import N1nCredentials, generate_image

@flow(task_runner=ThreadPoolTaskRunner(max_workers=3))
def draw(prompts: list[str], credentials: N1nCredentials) -> int:
    return len(generate_image.map(prompts, credentials=unmapped(credentials)).result())
"""
DEPLOYED = """
name: draw
deployments:
  - name: {name}
    entrypoint: draw.py:draw
    tags: [n1n]
    work_pool: {{name: {name}}}
"""


class TestLostMachine:
    """A worker and its run are killed; the server notices, and another worker goes on."""

    @pytest.fixture
    def name(self) -> str:
        return f"lost-{uuid.uuid4().hex[:8]}"

    @pytest.fixture
    def gateway(self, n1n_gateway_factory):
        gateway = n1n_gateway_factory(canned=True, grain=False)
        gateway.faults.add("slow", times=None, match="lost", seconds=240)
        return gateway

    @pytest.fixture
    def run(self, server: PrefectServer, tmp_path: Path, name: str, gateway) -> str:
        """A run of a deployment, made by the one command."""
        (tmp_path / "draw.py").write_text(DRAW)
        (tmp_path / "prefect.yaml").write_text(DEPLOYED.format(name=name))
        argv = ("--credentials", name, "--work-pool", name, "--deploy", str(tmp_path / "prefect.yaml"))
        # More than twice the heartbeats of 30 s, which is the least that Prefect takes.
        argv += ("--automations", "--silent-after", "70")
        environment = {"N1N_API_KEY": gateway.api_key, "N1N_BASE_URL": gateway.base_url}
        server.run("n1n-prefect", "setup", *argv, **environment)
        deployment = server.get(f"/deployments/name/draw/{name}")["id"]
        block = server.get(f"/block_types/slug/n1n-credentials/block_documents/name/{name}")["id"]
        parameters = {"prompts": ["one", "two", "lost"], "credentials": {"$ref": {"block_document_id": block}}}
        return server.post(f"/deployments/{deployment}/create_flow_run", parameters=parameters)["id"]

    def test_pays_for_nothing_twice_that_was_answered(self, server, name, gateway, run):
        before = answered(server)
        worker = ("prefect", "worker", "start", "--pool", name, "--limit", "1")
        beats = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
        with server.running(*worker, log=f"{name}-1", **beats) as first:
            wait_for(
                lambda: answered(server) == before + 2 and len(gateway.ledger.calls) == 3, "two answers and a call"
            )
            pid = int(server.get(f"/flow_runs/{run}")["infrastructure_pid"].rpartition(":")[2])
            first.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert is_in(server, run, "RUNNING")  # nobody was left to say anything else
        gateway.faults.clear()
        with server.running(*worker, log=f"{name}-2", **beats):
            wait_for(lambda: is_in(server, run, "COMPLETED"), "the run to be completed")
        assert server.get(f"/flow_runs/{run}")["run_count"] == 2
        prompts = [call.prompt_excerpt for call in gateway.ledger.billed]
        assert (prompts.count("one"), prompts.count("two")) == (1, 1)


def answered(server: PrefectServer) -> int:
    """How many answers the journal of this server's runs has."""
    return len(list((server.home / "storage/n1n/journal").glob("*/*.answered")))
