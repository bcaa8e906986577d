"""Chunks that the workers of a deployment carry out, each flow run a process of its own."""

import os
import signal
import uuid
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Crashed, Running, Scheduled

from n1n_prefect.batch import elsewhere as elsewhere_module
from n1n_prefect.batch.elsewhere import ChunkRuns, Deployment, deployment_of
from n1n_prefect.batch.lease import of_chunk
from n1n_prefect.batch.terms import Terms
from n1n_prefect.errors import InvalidRequestError, N1nError
from tests.batch.carried_out import wait_for
from tests.e2e.workspace import ENDED

pytestmark = pytest.mark.timeout(900)

POOL = "n1n-batch-pool"
CHUNKS, BATCHES = "batch-chunk/workers", "batch-to-s3/workers"


def ended(pool, run):
    """The state in which a flow run has ended."""

    def final():
        state = pool.get(f"/flow_runs/{run}")["state"]
        return state if state["type"] in ENDED else None

    return wait_for(final, f"the end of flow run {run}")


@pytest.fixture(scope="module")
def pool(prefect_server, tmp_path_factory):
    """A work pool with two workers, and both flows deployed to it from the installed package."""
    prefect_server.run("prefect", "work-pool", "create", POOL, "--type", "process", "--overwrite")
    nowhere = tmp_path_factory.mktemp("nowhere")  # with no prefect.yaml, and no code but the installed package
    for flow in ("batch_chunk", "batch_to_s3"):
        entrypoint = f"n1n_prefect.batch.{flow}"
        command = ("prefect", "--no-prompt", "deploy", entrypoint, "--name", "workers", "--pool", POOL)
        print(prefect_server.run(*command, cwd=nowhere))
    with ExitStack() as workers:
        for name in ("one", "two"):
            command = ("prefect", "worker", "start", "--pool", POOL, "--name", f"batch-{name}")
            workers.enter_context(prefect_server.running(*command, log=f"batch-{name}"))
        yield prefect_server


@pytest.fixture
def elsewhere(pool, job_of):
    """Makes a batch whose chunks go to the workers."""

    def make(rows, *, options=None, **fields):
        given = {"deployment": CHUNKS, "chunk_size": 5, **(options or {})}
        return job_of(rows, options=given, server=pool.environment, saved_as=f"b-{uuid.uuid4().hex[:8]}", **fields)

    return make


class TestWorkers:
    def test_one_that_is_killed_costs_only_what_it_had_under_way(self, elsewhere):
        job = elsewhere(20, gateway={"latency_seconds": 1.0}, key={"max_in_flight": 2})
        process = job.start()
        holder = job.holder(0)
        job.called(range(5))
        os.kill(holder.process, signal.SIGKILL)
        assert process.ends() == 0, process.output
        assert "Chunk 00000 is handed out again" in process.output
        job.is_whole()
        assert job.stats()["possible_duplicates"] <= 2
        assert len({report.worker for report in job.reports()}) == 4, "each chunk is a process of its own"

    def test_they_go_on_when_the_batch_s_own_process_must_end(self, elsewhere):
        job = elsewhere(10, gateway={"latency_seconds": 1.0}, key={"max_in_flight": 1})
        process = job.start(grace_seconds=0)
        job.called(range(5))
        process.terminate()
        assert process.ends() == -signal.SIGTERM
        process = job.start()
        assert process.ends() == 0, process.output
        job.is_whole()
        assert len(job.gateway.ledger.billed) == 10


class TestCancelled:
    """A person cancels the batch's run, which a worker carries out, as others do its chunks."""

    @pytest.fixture
    def begun(self, elsewhere, pool):
        """The batch, and its run's id."""
        job = elsewhere(20, gateway={"latency_seconds": 1.0}, key={"max_in_flight": 2})
        where, key = job.destination, f"{job.destination.prefix}/week-46.csv"
        where.get_client().upload_file(str(job.folder / "week-46.csv"), where.bucket, key)
        with temporary_settings({PREFECT_API_URL: pool.api_url}):
            blocks = {"credentials": job.credentials, "destination": where}
            saved = {name: str(block.save(job.saved_as)) for name, block in blocks.items()}
        references = {name: {"$ref": {"block_document_id": block}} for name, block in saved.items()}
        given = {"manifest": where.uri_of(key), "chunk_size": 10, "deployment": CHUNKS, **references}
        deployment = pool.get(f"/deployments/name/{BATCHES}")["id"]
        run = pool.post(f"/deployments/{deployment}/create_flow_run", parameters=given)["id"]
        job.called(range(10))
        return job, run

    def test_what_is_under_way_ends_and_is_recorded(self, begun, pool):
        job, run = begun
        pool.post(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING"}, force=False)
        assert ended(pool, run)["name"] == "Cancelled"
        below = pool.post("/flow_runs/filter", flow_runs={"parent_flow_run_id": {"any_": [run]}})
        assert [ended(pool, child["id"])["name"] for child in below] == ["Cancelled"] * 2
        assert len(job.gateway.ledger.calls) < 20
        assert job.recorded() == set(job.billed())

        job.gateway.latency_seconds = 0.0
        process = job.start(deployment="", chunk_size=10)
        assert process.ends() == 0, process.output
        job.is_whole()
        assert len(job.gateway.ledger.billed) == 20


class TestMisspelt:
    def test_a_deployment_that_is_not_there(self, pool):
        with (
            temporary_settings({PREFECT_API_URL: pool.api_url}),
            pytest.raises(InvalidRequestError, match=r"Did you mean 'batch-chunk/workers'\?.*Nothing was spent"),
        ):
            deployment_of("batch-chunk/wokers", {})

    def test_what_is_no_name_of_a_deployment(self, pool):
        with (
            temporary_settings({PREFECT_API_URL: pool.api_url}),
            pytest.raises(InvalidRequestError, match="written as batch-chunk/NAME, and made with `prefect deploy"),
        ):
            deployment_of("workers", {})

    def test_a_deployment_of_another_flow(self, pool):
        with (
            temporary_settings({PREFECT_API_URL: pool.api_url}),
            pytest.raises(InvalidRequestError, match=r"of another flow than n1n_prefect\.batch\.batch_chunk"),
        ):
            deployment_of(BATCHES, {})

    def test_a_block_that_is_not_saved(self, n1n_credentials):
        with pytest.raises(InvalidRequestError, match=r"credentials is not a saved block.*Nothing was spent"):
            deployment_of(CHUNKS, {"credentials": n1n_credentials})


class Server:
    """Stands in for Prefect's client: it knows the states of runs, and may be away."""

    def __init__(self, **states):
        self.states = states
        self.is_away = False
        self.told = {}

    def read_flow_runs(self, flow_run_filter):
        if self.is_away:
            raise ConnectionError("nobody listens")
        wanted = flow_run_filter.id.any_
        return [SimpleNamespace(id=run, state=state) for run, state in self.states.items() if run in wanted]

    def set_flow_run_state(self, flow_run_id, state, force=False):
        self.told[flow_run_id] = state

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture
def server(monkeypatch):
    made = Server()
    monkeypatch.setattr(elsewhere_module, "get_client", lambda sync_client: made)
    monkeypatch.setattr(elsewhere_module, "_ASK_SECONDS", 0.0)
    return made


@pytest.fixture
def run_of(batch, server, monkeypatch):
    """A chunk that was handed out, whose run is in the state that is given."""

    def create(*args, **options):
        created = SimpleNamespace(id=uuid.uuid4())
        server.states[created.id] = Scheduled()
        return created

    monkeypatch.setattr(elsewhere_module, "run_deployment", create)
    deployment = Deployment(uuid.uuid4(), CHUNKS, "gpu", "night", {})
    runs = ChunkRuns(deployment, Terms("b", "b"), ["d0"], batch.places.store)

    def begun(state):
        run = runs.start(0, None)
        server.states[run.id] = state
        return run

    return begun


class TestSeenFromHere:
    def test_nobody_who_works_is_told_of_once_with_the_remedy(self, run_of, monkeypatch, caplog):
        monkeypatch.setattr(elsewhere_module, "NOBODY_SECONDS", 0.0)
        run = run_of(Scheduled())
        for _ in range(3):
            assert not run.is_done()
        [told] = [record.getMessage() for record in caplog.records]
        assert "1 chunk waits, and no worker of work pool 'gpu', queue 'night', takes them up" in told
        assert "prefect worker start --pool gpu" in told

    def test_a_server_that_is_away_is_asked_on(self, run_of, server, caplog):
        run = run_of(Completed())
        server.is_away = True
        for _ in range(3):
            assert not run.is_done()
        assert len(caplog.records) == 1
        server.is_away = False
        assert run.is_done()

    def test_a_run_that_was_deleted_is_started_again(self, run_of, server):
        run = run_of(Running())
        first = run.id
        del server.states[first]
        assert not run.is_done()
        assert run.id != first

    def test_a_worker_without_a_sign_of_life_is_given_up(self, run_of, server, monkeypatch, batch):
        batch.places.store.write(of_chunk(0), b"{}")
        run = run_of(Running())
        first = run.id
        assert not run.is_done()
        assert run.id == first, "its lease is fresh"
        monkeypatch.setattr(elsewhere_module, "_LOST_SECONDS", -1.0)
        assert not run.is_done()
        assert server.told[first].is_crashed()
        assert run.id != first

    def test_after_three_workers_it_has_failed(self, run_of, server):
        run = run_of(Running())
        for _ in range(3):
            server.states[run.id] = Crashed(message="out of memory")
            done = run.is_done()
        assert done
        with pytest.raises(N1nError, match="is Crashed: out of memory"):
            run.report()

    def test_one_that_cannot_be_handed_out_again_has_ended_as_it_did(self, run_of, monkeypatch, caplog):
        run = run_of(Crashed(message="out of memory"))

        def gone(*args, **options):
            raise LookupError("the deployment is gone")

        monkeypatch.setattr(elsewhere_module, "run_deployment", gone)
        assert run.is_done()
        assert "cannot be handed out again: LookupError: the deployment is gone" in caplog.text
        with pytest.raises(N1nError, match="is Crashed: out of memory"):
            run.report()

    def test_one_that_completed_must_have_left_a_report(self, run_of):
        run = run_of(Completed())
        assert run.is_done()
        with pytest.raises(N1nError, match="Chunk 0 left no report at s3://"):
            run.report()
