"""`n1n-prefect resume --crashed`: all that crashed, under their own ids, and not for ever."""

import uuid
from datetime import datetime, timedelta, timezone

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings

from n1n_prefect.cli import main
from n1n_prefect.cli.crashed import _found
from tests.prefect_server import wait_for

pytestmark = pytest.mark.prefect


@pytest.fixture
def server(setup_server):
    """The server without runs that other tests left crashed or running."""
    states = {"type": {"any_": ["CRASHED", "RUNNING"]}}
    for run in setup_server.post("/flow_runs/filter", flow_runs={"state": states}):
        httpx.delete(f"{setup_server.api_url}/flow_runs/{run['id']}").raise_for_status()
    return setup_server


@pytest.fixture
def resume(server, capsys):
    """What `resume --crashed` says: its exit code, what it says of each run by its id, and its last line."""

    def resume(*argv):
        with temporary_settings({PREFECT_API_URL: server.api_url}):
            code = main(["resume", "--crashed", *argv])
        *lines, last = "".join(capsys.readouterr()).splitlines()
        about = "\n".join(["", *lines]).split("\nFlow run ")[1:]
        return code, {said.partition("(")[2].partition(")")[0]: said for said in about}, last

    return resume


@pytest.fixture
def run(server):
    """A run of a deployment that has run so often and is now in a state, by its id."""
    flow = server.post("/flows/", name="resumed")
    name = uuid.uuid4().hex
    deployment = server.post("/deployments/", name=name, flow_id=flow["id"])["id"]

    def run(kind="CRASHED", times=1, parent=None, parameters=None):
        body = {"parameters": parameters or {}, "parent_task_run_id": parent, "enforce_parameter_schema": False}
        run_id = server.post(f"/deployments/{deployment}/create_flow_run", **body)["id"]
        for _ in range(times):
            set_state(server, run_id, "RUNNING")
            if kind != "RUNNING":
                set_state(server, run_id, kind)
        return run_id

    return run


def set_state(server, run_id, kind):
    server.post(f"/flow_runs/{run_id}/set_state", state={"type": kind}, force=True)


def kind_of(server, run_id):
    return server.get(f"/flow_runs/{run_id}")["state"]["type"]


def heartbeat(server, run_id, seconds_ago):
    event = {
        "id": str(uuid.uuid4()),
        "occurred": (datetime.now(timezone.utc) - timedelta(seconds=seconds_ago)).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run_id}"},
    }
    httpx.post(f"{server.api_url}/events", json=[event], timeout=30).raise_for_status()


def is_kept(server, run_id):
    """Whether the server can give the run's heartbeats."""
    wanted = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run_id}"]}}
    return server.post("/events/filter", filter=wanted)["events"]


class TestCrashed:
    def test_are_scheduled_under_their_ids(self, server, resume, run):
        crashed, failed = [run(), run(times=2)], run("FAILED")
        code, said, last = resume()
        assert (code, last) == (0, "2 resumed, 0 left out.")
        assert said.keys() == {*crashed}
        assert all("It is scheduled" in said[run_id] for run_id in crashed)
        assert [kind_of(server, run_id) for run_id in crashed] == ["SCHEDULED", "SCHEDULED"]
        assert kind_of(server, failed) == "FAILED"
        assert resume()[2] == "0 resumed, 0 left out."

    def test_one_that_crashes_each_time_is_left_to_a_person(self, server, resume, run):
        often, once = run(times=3), run()
        code, said, last = resume()
        assert (code, last) == (1, "1 resumed, 1 left out.")
        assert "Left out: It has run 3 times" in said[often]
        assert f"n1n-prefect resume {often}, or --most-runs 4" in said[often]
        assert (kind_of(server, often), kind_of(server, once)) == ("CRASHED", "SCHEDULED")
        assert resume("--most-runs", "4")[0] == 0
        assert kind_of(server, often) == "SCHEDULED"

    def test_what_cannot_be_scheduled_is_said_and_hides_no_other(self, server, resume, run):
        flow = server.post("/flows/", name="resumed")["id"]
        alone = server.post("/flow_runs/", flow_id=flow, state={"type": "CRASHED"})["id"]
        masked = run(parameters={"credentials": {"block_type_slug": "n1n-credentials", "api_key": "**********"}})
        task = server.post("/task_runs/", flow_run_id=alone, task_key="t", dynamic_key="0")["id"]
        part, well = run(parent=task), run()
        code, said, last = resume()
        assert (code, last) == (1, "1 resumed, 3 left out.")
        assert f"n1n-prefect resume {alone} --entrypoint" in said[alone]
        assert "Parameter 'credentials' is a block that was never saved" in said[masked]
        assert f"It is a part of flow run {alone}" in said[part]
        assert kind_of(server, well) == "SCHEDULED"

    def test_within_a_time_and_a_number(self, server, resume, run):
        runs = {run() for _ in range(3)}
        _, said, last = resume("--limit", "2")
        assert last == "2 resumed, 0 left out. There may be more than --limit 2; run this again."
        left = runs - said.keys()
        assert [kind_of(server, run_id) for run_id in left] == ["CRASHED"]
        now, minute = datetime.now(timezone.utc), timedelta(minutes=1)
        with temporary_settings({PREFECT_API_URL: server.api_url}), get_client(sync_client=True) as client:
            assert not [*_found(client, StateType.CRASHED, now + minute, 10)]
            found = [*_found(client, StateType.CRASHED, now - minute, 10)]
        assert {str(each.id) for each in found} == left


class TestSilent:
    def test_running_ones_are_taken_only_if_their_heartbeats_stopped(self, server, resume, run):
        dead, alive, mute = (run("RUNNING") for _ in range(3))
        heartbeat(server, dead, 3_600)
        heartbeat(server, alive, 0)
        for run_id in (dead, alive):
            wait_for(lambda run_id=run_id: is_kept(server, run_id), "the heartbeat to be kept")
        assert resume()[2] == "0 resumed, 0 left out."
        code, said, last = resume("--silent", "900")
        assert (code, last) == (1, "1 resumed, 2 left out.")
        assert "so it is taken for alive" in said[alive]
        assert "It gives no heartbeats" in said[mute]
        assert [kind_of(server, run_id) for run_id in (dead, alive, mute)] == ["SCHEDULED", "RUNNING", "RUNNING"]


class TestCalledWrongly:
    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            ([], "Give FLOW_RUN, or --crashed"),
            (["some-run", "--crashed"], "Give FLOW_RUN, or --crashed"),
            (["", "--crashed"], "Give FLOW_RUN, or --crashed"),  # as of an unset variable in a shell
            (["--crashed", "--force"], "are for a single FLOW_RUN"),
            (["--crashed", "--since", "1y"], "'1y' is no time"),
            (["--crashed", "--limit", "0"], "'0' is no number of runs"),
            (["--crashed", "--most-runs", "many"], "'many' is no number of runs"),
        ],
    )
    def test_is_two(self, argv, said, server, capsys):
        with temporary_settings({PREFECT_API_URL: server.api_url}):
            assert main(["resume", *argv]) == 2
        assert said in capsys.readouterr().err
