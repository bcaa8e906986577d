"""A batch that is told to end: what is under way ends in the time there is, and the next run goes on."""

import signal

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.flow_engine import TerminationSignal

from n1n_prefect import stopping
from n1n_prefect.batch.draining import draining
from tests.batch.carried_out import wait_for

AGES = 600.0
"""Longer than any test waits."""


@pytest.fixture
def received():
    """The signals that arrive at whoever was asked before a batch."""
    signals = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    yield signals
    signal.signal(signal.SIGTERM, before)
    stopping.forget()


class TestWithin:
    def test_the_first_asks_and_is_passed_on_at_the_end(self, received):
        with draining(20):
            signal.raise_signal(signal.SIGTERM)
            assert 0 < stopping.seconds_left() <= 20
            assert received == []
        assert received == [signal.SIGTERM]

    def test_a_process_that_goes_on_after_all_begins_anew(self, received):
        with draining(20):
            signal.raise_signal(signal.SIGTERM)
        assert not stopping.is_asked()

    def test_the_second_ends_it_at_once(self, received):
        with draining(20):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert received == [signal.SIGTERM]
            assert stopping.seconds_left() == 0
        assert received == [signal.SIGTERM], "the end of the block is no third one"

    def test_what_ends_the_process_leaves_nothing_to_begin(self):
        def end(number, frame):
            raise TerminationSignal(number)

        before = signal.signal(signal.SIGTERM, end)
        try:
            with pytest.raises(TerminationSignal), draining(20):
                signal.raise_signal(signal.SIGTERM)
            assert stopping.is_asked(), "threads that are still about must not begin anything"
            with draining(20):
                assert not stopping.is_asked(), "another batch may begin"
        finally:
            signal.signal(signal.SIGTERM, before)
            stopping.forget()

    def test_without_a_signal_nothing_happens(self, received):
        with draining(20):
            pass
        assert received == []


def state_of(process):
    """The state on the server of the flow run that a process has carried out."""
    name = process.output.split("Beginning flow run '")[1].split("'")[0]
    with get_client(sync_client=True) as client:
        [found] = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
    return found.state


def recorded(job):
    """The ids of items whose image stands in a part."""
    return {result.id for result in job.part_results() if result.outcome.ok}


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
@pytest.mark.timeout(600)
class TestTerminated:
    def test_what_is_under_way_ends_and_is_recorded(self, job_of):
        job = job_of(40, gateway={"latency_seconds": 1.0}, key={"max_in_flight": 4}, options={"chunk_size": 10})
        process = job.start()
        job.calls(5)
        process.terminate()
        assert process.ends() == -signal.SIGTERM
        calls = len(job.gateway.ledger.calls)
        assert calls < 40
        assert recorded(job) == {f"fox-{prompt.rpartition(' ')[2]}" for prompt in job.billed()}
        assert {result.outcome.status for result in job.part_results()} == {"uploaded", "pending"}
        assert state_of(process).is_crashed()

        job.gateway.latency_seconds = 0.0
        assert job.start().ends() == 0
        job.is_whole()
        assert len(job.gateway.ledger.billed) == 40
        assert job.stats()["possible_duplicates"] == 0

    def test_with_a_gateway_that_is_too_slow_it_ends_nevertheless(self, job_of):
        job = job_of(12, gateway={"latency_seconds": AGES}, key={"max_in_flight": 3})
        process = job.start(grace_seconds=1)
        wait_for(lambda: job.gateway.ledger.most_in_flight == 3, "three calls under way")
        process.terminate()
        assert process.ends() == -signal.SIGTERM
        assert {result.outcome.status for result in job.part_results()} == {"pending"}

        job.gateway.latency_seconds = 0.0
        assert job.start().ends() == 0
        job.is_whole()
        assert job.stats()["possible_duplicates"] == 3

    def test_the_second_signal_ends_it_at_once(self, job_of):
        job = job_of(6, gateway={"latency_seconds": AGES}, key={"max_in_flight": 3})
        process = job.start(grace_seconds=AGES)
        wait_for(lambda: job.gateway.ledger.most_in_flight == 3, "three calls under way")
        process.terminate()
        wait_for(lambda: "told to end" in process.output, "a word of the first signal")
        process.terminate()
        assert process.ends() == -signal.SIGTERM

    def test_who_waits_for_the_gateway_s_pause_is_not_waited_for(self, job_of):
        job = job_of(12, key={"max_in_flight": 3}, options={"chunk_size": 4})
        job.gateway.faults.add("rate_limited", times=None, seconds=AGES / 2)
        process = job.start(grace_seconds=AGES)
        job.calls(3)
        process.terminate()
        assert process.ends() == -signal.SIGTERM
        assert {result.outcome.status for result in job.part_results()} == {"pending"}

        job.gateway.faults.clear()
        assert job.start().ends() == 0
        job.is_whole()
        assert job.stats()["possible_duplicates"] == 0
