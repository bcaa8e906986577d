"""A batch whose chunks are carried out by the processes of a Dask cluster."""

import os
import signal

import pytest
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from tests.batch.carried_out import wait_for

TWO = {"cluster_kwargs": {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.prefect,
    pytest.mark.usefixtures("prefect_api"),
    pytest.mark.timeout(600),
]


@pytest.fixture
def shared_limit():
    """A global limit of three."""
    name = "n1n-dask"
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(name, 3)
    return name


def told_of(batch_id):
    """The numbers of chunks that there are events of."""
    wanted = EventFilter(
        event=EventNameFilter(name=["n1n.batch.chunk"]), resource=EventResourceFilter(id=[f"n1n.batch.{batch_id}"])
    )
    with get_client(sync_client=True) as client:
        body = {"filter": wanted.model_dump(mode="json", exclude_unset=True), "limit": 50}
        events = client.request("POST", "/events/filter", json=body).json()["events"]
    return {event["payload"]["number"] for event in events}


class TestTwoWorkers:
    def test_every_item_once_and_one_limit_over_both(self, job_of, shared_limit):
        job = job_of(
            40,
            gateway={"latency_seconds": 0.1},
            key={"concurrency_limit": shared_limit},
            options={"chunk_size": 5},
            runner=TWO,
            batch_id="dask-46",
        )
        process = job.start()
        assert process.ends() == 0, process.output
        job.is_whole()
        assert len(job.gateway.ledger.calls) == 40
        assert job.gateway.ledger.most_in_flight == 3
        assert len({report.worker for report in job.reports()}) == 2, "both have worked"
        assert wait_for(lambda: {*range(8)} <= told_of(job.batch_id), "an event for each chunk")

    def test_a_ceiling_holds_over_both(self, job_of):
        job = job_of(40, options={"chunk_size": 5, "max_usd": 0.8}, runner=TWO)
        process = job.start()
        assert process.ends() == 1
        assert "Finished in state OverBudget" in process.output
        assert "max_usd=0.8; raise it to go on" in process.output
        assert job.gateway.ledger.usd <= 0.8
        assert job.gateway.ledger.usd > 0.6, "most of it"

    def test_a_worker_that_is_killed_costs_only_what_it_had_under_way(self, job_of):
        job = job_of(
            40, gateway={"latency_seconds": 0.5}, key={"max_in_flight": 2}, options={"chunk_size": 10}, runner=TWO
        )
        process = job.start()
        job.calls(4)
        holder = job.holder(0)
        os.kill(holder.process, signal.SIGKILL)
        assert process.ends() == 0, process.output
        job.is_whole()
        assert job.stats()["possible_duplicates"] <= 2

    def test_told_to_end_both_end_what_they_have_under_way(self, job_of):
        job = job_of(
            40, gateway={"latency_seconds": 1.0}, key={"max_in_flight": 2}, options={"chunk_size": 20}, runner=TWO
        )
        process = job.start(grace_seconds=60)
        job.calls(4)
        process.terminate()
        assert process.ends() == -signal.SIGTERM
        assert len(job.gateway.ledger.calls) < 40
        assert job.recorded() == set(job.billed())

        job.gateway.latency_seconds = 0.0
        job.runner = {}  # on threads
        assert job.start().ends() == 0
        job.is_whole()
        assert len(job.gateway.ledger.billed) == 40
