import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterName,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.states import (
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Paused,
    Pending,
    Running,
    Scheduled,
)

from n1n_prefect import N1nCredentials, S3Location
from n1n_prefect.cli import main
from n1n_prefect.staging import local_storage
from tests import resumable

HERE = "tests/resumable.py"

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.usefixtures("prefect_api")]


@pytest.fixture
def gateway(n1n_gateway_factory):
    """A quick gateway; no two of its pictures are equal."""
    return n1n_gateway_factory(canned=True, grain=False)


@pytest.fixture
def credentials(gateway):
    return N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url)


@pytest.fixture
def saved(credentials):
    """The same as the saved block `resumable`."""
    credentials.save("resumable", overwrite=True)
    return credentials


@pytest.fixture
def client():
    with get_client(sync_client=True) as client:
        yield client


def paid(gateway):
    """How often each prompt was billed."""
    prompts = [call.prompt_excerpt for call in gateway.ledger.billed]
    return {prompt: prompts.count(prompt) for prompt in prompts}


def until(condition):
    for _ in range(900):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it did not come to that within 90 s")


def answered():
    """How many answers the local journal has."""
    return len(list((local_storage().root / "n1n/journal").glob("*/*.answered")))


def environment(**more):
    return {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "PREFECT_RUNNER_POLL_FREQUENCY": "1", **more}


def resume(*argv, **variables):
    """The command in a process of its own."""
    command = [sys.executable, "-c", "import sys; from n1n_prefect.cli import main; sys.exit(main())", "resume", *argv]
    return subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, check=False, timeout=120
    )


@contextmanager
def another_process(*argv):
    """`tests.resumable` in a process group of its own, which is killed at the end."""
    command = [sys.executable, "-m", "tests.resumable", *argv]
    process = subprocess.Popen(command, env=environment(), start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def named_run(client, name):
    named = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
    return client.read_flow_runs(flow_run_filter=named)[0]


def completed_tasks(client, flow_run_id):
    """How many task runs of a flow run are complete, as far as the server has heard."""
    this = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    return sum(task.state_type == StateType.COMPLETED for task in client.read_task_runs(flow_run_filter=this))


def run_in(client, state, flow=resumable.draw, **parameters):
    """A flow run that is in a state, by its id."""
    flow_run = client.create_flow_run(flow, parameters=flow.serialize_parameters(parameters))
    client.set_flow_run_state(flow_run.id, state, force=True)
    return str(flow_run.id)


def said(capsys):
    """What the last call said on stderr: one line."""
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    return captured


# ── killed in mid-call ───────────────────────────────────────────────────────


class TestKilled:
    def test_goes_on_under_its_id_and_pays_for_nothing_that_was_answered(
        self, gateway, saved, client, capsys, tmp_path
    ):
        gateway.faults.add("slow", times=None, match="lost", seconds=120)
        name, before = f"killed-{uuid.uuid4().hex}", answered()
        with another_process("run", name, "one", "two", "lost"):
            until(lambda: answered() == before + 2 and len(gateway.ledger.calls) == 3)
            run_id = named_run(client, name).id
            until(lambda: completed_tasks(client, run_id) == 2)
        gateway.faults.clear()
        assert paid(gateway) == {"one": 1, "two": 1, "lost": 1}

        assert main(["resume", name, "--entrypoint", f"{HERE}:draw"]) == 1
        refused = said(capsys)
        assert "both would be paid" in refused
        assert "pass --force" in refused
        assert "The task run that it started last, 'generate " in refused

        # A storage with journals, though not of this run.
        (tmp_path / "n1n/journal").mkdir(parents=True)
        elsewhere = {"PREFECT_LOCAL_STORAGE_PATH": str(tmp_path)}
        refused = resume(name, "--entrypoint", f"{HERE}:draw", "--force", **elsewhere)
        assert refused.returncode == 1
        assert f"The journal of this run is not in {tmp_path.as_uri()}/n1n" in refused.stderr
        assert paid(gateway) == {"one": 1, "two": 1, "lost": 1}

        # What was lost is final with Spending("fail"), and what was paid is found.
        failed = resume(name, "--entrypoint", f"{HERE}:draw", "--force")
        assert failed.returncode == 1, failed.stdout + failed.stderr
        assert "is Failed since" in failed.stdout
        assert paid(gateway) == {"one": 1, "two": 1, "lost": 1}

        parameters = client.read_flow_run(run_id).parameters
        client.update_flow_run(run_id, parameters={**parameters, "prompts": ["one", "two", "three"]})
        done = resume(str(run_id), "--entrypoint", f"{HERE}:draw")
        assert done.returncode == 0, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        assert lines[0].startswith(f"Flow run {name!r} ({run_id}) is Failed since 20")
        assert f"What it paid for is looked for in {local_storage().root.as_uri()}/n1n" in lines
        assert lines[-1].startswith(f"Flow run {name!r} is Completed since 20")
        assert paid(gateway) == {"one": 1, "two": 1, "lost": 1, "three": 1}
        assert client.read_flow_run(run_id).run_count == 3

    def test_of_a_deployment_is_taken_by_what_serves_it(self, gateway, saved, client, capsys):
        gateway.faults.add("slow", times=None, match="lost", seconds=120)
        name, before = f"served-{uuid.uuid4().hex}", answered()
        block = client.read_block_document_by_name("resumable", "n1n-credentials").id
        parameters = {"prompts": ["one", "lost"], "credentials": {"$ref": {"block_document_id": str(block)}}}
        with another_process("serve", name):
            until(lambda: deployed(client, name))
            run_id = client.create_flow_run_from_deployment(deployed(client, name).id, parameters=parameters).id
            until(lambda: answered() == before + 1 and len(gateway.ledger.calls) == 2)
        gateway.faults.clear()
        client.update_flow_run(run_id, parameters={**parameters, "prompts": ["one", "two"]})

        assert main(["resume", str(run_id)]) == 1
        assert "both would be paid" in said(capsys)
        assert main(["resume", str(run_id), "--force", "--entrypoint", f"{HERE}:draw"]) == 2
        assert f"belongs to deployment {name!r}" in said(capsys)
        assert main(["resume", str(run_id), "--force"]) == 0
        told = capsys.readouterr().out
        assert "It is scheduled; the process that serves it runs it" in told
        assert f"/runs/flow-run/{run_id}" in told
        assert client.read_flow_run(run_id).state.type == StateType.SCHEDULED
        with another_process("serve", name):
            until(lambda: client.read_flow_run(run_id).state.type != StateType.SCHEDULED)
            until(lambda: client.read_flow_run(run_id).state.type not in (StateType.PENDING, StateType.RUNNING))
        assert client.read_flow_run(run_id).state.type == StateType.COMPLETED
        assert paid(gateway) == {"one": 1, "lost": 1, "two": 1}


def deployed(client, name):
    named = DeploymentFilter(name=DeploymentFilterName(any_=[name]))
    return next(iter(client.read_deployments(deployment_filter=named)), None)


# ── which runs, and in which state ───────────────────────────────────────────


class TestStates:
    @pytest.mark.parametrize(
        ("state", "why"),
        [
            (Completed(), "nothing to go on with"),
            (Running(), "stays so for ever"),
            (Cancelling(), "its process has ended"),
            (Pending(), "this worker is gone"),
            (Scheduled(), "It waits for its time"),
            (Paused(), "It waits for a person"),
        ],
    )
    def test_some_need_force(self, state, why, client, capsys):
        run_id = run_in(client, state, prompts=[], credentials={})
        assert main(["resume", run_id, "--entrypoint", f"{HERE}:draw"]) == 1
        refused = said(capsys)
        assert why in refused
        assert "pass --force" in refused
        assert client.read_flow_run(run_id).state.type == state.type

    @pytest.mark.parametrize("state", [Failed(), Crashed(), Cancelled()])
    def test_some_do_not(self, state, saved, client):
        run_id = run_in(client, state, prompts=[], credentials=saved)
        assert main(["resume", run_id, "--entrypoint", f"{HERE}:draw"]) == 0
        assert client.read_flow_run(run_id).state.type == StateType.COMPLETED

    @pytest.mark.parametrize("state", [Completed(), Running(), Pending(), Scheduled()])
    def test_force_is_enough(self, state, saved, client):
        run_id = run_in(client, state, prompts=[], credentials=saved)
        assert main(["resume", run_id, "--force", "--entrypoint", f"{HERE}:draw"]) == 0
        assert client.read_flow_run(run_id).state.type == StateType.COMPLETED

    def test_a_message_is_shown_on_its_line_without_keys(self, client, capsys):
        run_id = run_in(client, Failed(message="Bearer sk-0123456789abcdef\nsaid no"), prompts=[], credentials={})
        assert main(["resume", run_id]) == 2
        assert "UTC: Bearer *** said no\n" in capsys.readouterr().out


class TestWhich:
    @pytest.mark.parametrize("name", ["no-such-run", str(uuid.uuid4()), ""])
    def test_none(self, name, capsys):
        assert main(["resume", name]) == 1
        refused = said(capsys)
        assert f"There is no flow run {name!r} at http://127.0.0.1" in refused
        assert "PREFECT_API_URL" in refused

    def test_several_of_a_name(self, client, capsys):
        name = f"twice-{uuid.uuid4().hex}"
        ids = [str(client.create_flow_run(resumable.draw, name=name).id) for _ in range(2)]
        assert main(["resume", name]) == 1
        refused = said(capsys)
        assert all(run_id in refused for run_id in ids)

    def test_a_subflow_is_resumed_by_its_parent(self, gateway, saved, client, capsys):
        gateway.faults.add("unauthorized", match="a fox")
        state = resumable.whole(["a fox"], saved, return_state=True)
        parent = state.state_details.flow_run_id
        flows = FlowFilter(name=FlowFilterName(any_=["draw"]))
        parts = client.read_flow_runs(flow_filter=flows, sort=FlowRunSort.START_TIME_DESC, limit=1)
        assert main(["resume", str(parts[0].id), "--entrypoint", f"{HERE}:draw"]) == 1
        assert f"It is a part of flow run {parent}; resume that one" in said(capsys)
        assert main(["resume", str(parent), "--entrypoint", f"{HERE}:whole"]) == 0
        assert paid(gateway) == {"a fox": 1}

    def test_one_whose_deployment_was_deleted_is_run_here(self, saved, client, capsys):
        deployment_id = resumable.draw.to_deployment(f"deleted-{uuid.uuid4().hex}").apply()
        block = client.read_block_document_by_name("resumable", "n1n-credentials").id
        parameters = {"prompts": [], "credentials": {"$ref": {"block_document_id": str(block)}}}
        run_id = str(client.create_flow_run_from_deployment(deployment_id, parameters=parameters).id)
        client.set_flow_run_state(run_id, Failed(), force=True)
        client.delete_deployment(deployment_id)
        assert main(["resume", run_id]) == 2
        assert "It belongs to no deployment" in said(capsys)
        assert main(["resume", run_id, "--entrypoint", f"{HERE}:draw"]) == 0


# ── its code and its parameters ──────────────────────────────────────────────


class TestEntrypoint:
    def test_is_needed_without_a_deployment(self, client, capsys):
        run_id = run_in(client, Failed(), prompts=[], credentials={})
        assert main(["resume", run_id]) == 2
        assert "--entrypoint path/to/file.py:flow" in said(capsys)

    @pytest.mark.parametrize("entrypoint", ["tests/resumable.py", ":draw", "file.py:", "file.py:a-b"])
    def test_that_is_none_is_two(self, entrypoint, capsys):
        assert main(["resume", "any", "--entrypoint", entrypoint]) == 2
        assert "names no flow; give path/to/file.py:flow_function" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("entrypoint", "why"),
        [
            ("absent.py:draw", "cannot be loaded (FileNotFoundError"),
            ("tests/resumable.py:absent", "cannot be loaded (AttributeError"),
            ("tests/resumable.py:main", "cannot be loaded (MissingFlowError"),
            ("tests/resumable.py:draw_one", "The run is one of flow 'draw', and 'tests/resumable.py:draw_one' is flow"),
        ],
    )
    def test_that_is_not_the_run_s(self, entrypoint, why, saved, client, capsys):
        run_id = run_in(client, Failed(), prompts=[], credentials=saved)
        assert main(["resume", run_id, "--entrypoint", entrypoint]) == 1
        assert why in said(capsys)
        assert client.read_flow_run(run_id).state.type == StateType.FAILED

    def test_whose_parameters_are_others_now(self, saved, client, capsys):
        run_id = run_in(client, Failed(), prompts=[], credentials=saved, gone=1)
        assert main(["resume", run_id, "--entrypoint", f"{HERE}:draw"]) == 1
        assert "do not go with flow 'draw' as it is now (SignatureMismatchError" in said(capsys)
        assert client.read_flow_run(run_id).state.type == StateType.FAILED


def terse(block):
    """A block as Prefect stores it where defaults are left out."""
    return block.model_dump(mode="json", exclude_unset=True)


class TestParameters:
    def test_of_coroutines_with_a_block_that_was_never_saved(self, gateway, credentials, client, capsys):
        gateway.faults.add("unauthorized", match="a fox")
        run_id = run_in(client, Crashed(), resumable.draw_one, prompt="a fox", credentials=credentials)
        command = ["resume", run_id, "--entrypoint", f"{HERE}:draw_one"]
        credentials.save("resumable", overwrite=True)

        assert main(command) == 1
        refused = said(capsys)
        assert "--block credentials=n1n-credentials/NAME" in refused
        assert "Saved are: " in refused
        assert "resumable" in refused
        assert client.read_flow_run(run_id).state.type == StateType.CRASHED

        assert main([*command, "--block", "credentials=n1n-credentials/absent"]) == 1
        assert "There is no block n1n-credentials/absent. Saved are: " in said(capsys)
        assert main([*command, "--block", "credentials=no-such-type/absent"]) == 1
        assert "There is no block no-such-type/absent. None is saved yet" in said(capsys)
        assert main([*command, "--block", "credential=n1n-credentials/resumable"]) == 2
        assert "no parameter 'credential'; it has prompt, credentials" in said(capsys)

        assert main([*command, "--block", "credentials=n1n-credentials/resumable"]) == 1  # the fault
        assert main(command) == 0  # the block is remembered
        assert paid(gateway) == {"a fox": 1}

    def test_a_block_of_another_type_is_refused(self, saved, client, capsys):
        S3Location(bucket="shop", aws_access_key_id="a", aws_secret_access_key="b").save("a-shop", overwrite=True)
        run_id = run_in(client, Failed(), prompts=[], credentials=saved)
        command = ["resume", run_id, "--entrypoint", f"{HERE}:draw", "--block", "credentials=s3-image-location/a-shop"]
        assert main(command) == 1
        assert "is a block of type n1n-credentials, not s3-image-location: --block" in said(capsys)

    @pytest.mark.parametrize("block", ["credentials", "=a/b", "credentials=a", "credentials=a/b/c"])
    def test_a_block_that_is_none_is_two(self, block, capsys):
        assert main(["resume", "any", "--block", block]) == 2
        assert "argument --block" in capsys.readouterr().err

    @pytest.mark.parametrize("field", ["account", "base_url"])
    def test_a_block_that_pays_elsewhere_is_refused(self, field, gateway, credentials, client, capsys):
        other = {"account": "another", "base_url": f"{gateway.base_url}/v2"}[field]
        name = f"other-{field.replace('_', '-')}"
        N1nCredentials(**{**dict(credentials), field: other}).save(name, overwrite=True)
        run_id = run_in(client, Failed(), prompts=[], credentials=credentials)
        command = ["resume", run_id, "--entrypoint", f"{HERE}:draw", "--block", f"credentials=n1n-credentials/{name}"]
        assert main(command) == 1
        refused = said(capsys)
        assert f"has '{other}': what was paid for would not be found" in refused
        client.update_flow_run(run_id, parameters={"prompts": [], "credentials": terse(credentials)})
        assert main(command) == 1
        capsys.readouterr()
        assert "--pay-again" in refused
        assert main([*command, "--pay-again"]) == 0

    def test_a_block_that_pays_elsewhere_is_refused_in_the_place_of_a_reference_too(self, saved, client, capsys):
        N1nCredentials(**{**dict(saved), "account": "another"}).save("other-account", overwrite=True)
        run_id = run_in(client, Failed(), prompts=[], credentials=saved)
        command = ["resume", run_id, "--entrypoint", f"{HERE}:draw", "--force"]
        other = ["--block", "credentials=n1n-credentials/other-account"]
        assert main(command) == 0
        assert "$ref" in client.read_flow_run(run_id).parameters["credentials"]
        capsys.readouterr()
        assert main([*command, *other]) == 1
        assert "Parameter 'credentials' had account='default'" in said(capsys)
        assert main([*command, *other, "--pay-again"]) == 0

    def test_a_deployment_that_was_given_a_block_by_value(self, saved, client, capsys):
        name = f"by-value-{uuid.uuid4().hex}"
        deployment_id = resumable.draw.to_deployment(name).apply()
        by_value = resumable.draw.serialize_parameters({"prompts": [], "credentials": saved})
        run_id = str(client.create_flow_run_from_deployment(deployment_id, parameters=by_value).id)
        client.set_flow_run_state(run_id, Failed(), force=True)
        assert main(["resume", run_id]) == 0
        told = capsys.readouterr().out
        assert f"None has asked for work yet, so it may have to be started: serve deployment '{name}' again" in told
        document = client.read_block_document_by_name("resumable", "n1n-credentials")
        assert client.read_flow_run(run_id).parameters["credentials"] == {
            "$ref": {"block_document_id": str(document.id)}
        }

    def test_a_block_that_changed_is_told(self, saved, client, capsys):
        run_id = run_in(client, Failed(), prompts=[], credentials=saved)
        saved.timeout_seconds = 77
        saved.save("resumable", overwrite=True)
        assert main(["resume", run_id, "--entrypoint", f"{HERE}:draw"]) == 0
        told = capsys.readouterr().out
        assert "'credentials' is taken from the saved block 'resumable', whose timeout_seconds changed since" in told

    def test_a_block_that_is_deleted(self, credentials, client, capsys):
        credentials.save("short-lived", overwrite=True)
        run_id = run_in(client, Failed(), prompts=[], credentials=credentials)
        N1nCredentials.delete("short-lived")
        assert main(["resume", run_id, "--entrypoint", f"{HERE}:draw"]) == 1
        assert "is deleted. Give another: --block credentials=n1n-credentials/NAME" in said(capsys)


class TestStorage:
    def test_without_a_journal_is_refused_unless_it_is_said(self, gateway, saved, client, capsys, tmp_path):
        gateway.faults.add("unauthorized", match="a fox")
        state = resumable.draw(["a fox"], saved, return_state=True)
        run_id = str(state.state_details.flow_run_id)
        with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "new"}):
            assert main(["resume", run_id, "--entrypoint", f"{HERE}:draw"]) == 1
            refused = said(capsys)
            assert "would be paid again" in refused
            assert "--pay-again" in refused
            assert main(["resume", run_id, "--entrypoint", f"{HERE}:draw", "--pay-again"]) == 0
        assert paid(gateway) == {"a fox": 1}
