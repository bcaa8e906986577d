"""A batch in processes of its own: killed again and again, with a ceiling, and started twice at the same time.

`CHAOS_ROUNDS=40 pytest tests/batch/test_killed.py -s` kills it more often and prints what it came to.
"""

import os
import random

import pytest

from n1n_prefect.batch.lease import BATCH, Lease, held

KILLS = int(os.environ.get("CHAOS_ROUNDS", "3"))
ROWS, IN_FLIGHT, PRICE = 48, 6, 0.04

pytestmark = [
    pytest.mark.slow,
    pytest.mark.prefect,
    pytest.mark.usefixtures("prefect_api"),
    pytest.mark.timeout(300 + 30 * KILLS),
]


@pytest.fixture
def job(job_of):
    return job_of(ROWS, gateway={"latency_seconds": 0.3}, key={"max_in_flight": IN_FLIGHT}, options={"chunk_size": 12})


def is_killed(job, chance):
    """Starts it and kills it after some calls."""
    process, calls = job.start(), len(job.gateway.ledger.calls)
    job.calls(calls + chance.randint(1, IN_FLIGHT * 2))
    process.kill()


class TestKilled:
    def test_nothing_is_lost_and_only_what_was_under_way_may_be_paid_twice(self, job, capsys):
        chance = random.Random(46)
        for _ in range(KILLS):
            is_killed(job, chance)
        process = job.start()
        assert process.ends() == 0, process.output
        job.is_whole()
        again = job.billed().total() - ROWS
        told = job.stats()["possible_duplicates"]
        assert again <= told <= KILLS * IN_FLIGHT
        with capsys.disabled():
            print(f"\n{KILLS} kills: {job.billed().total()} calls for {ROWS} images, {told} told of as possibly twice")

    def test_a_ceiling_holds_over_all_runs(self, job):
        job.options["max_usd"] = 24 * PRICE
        is_killed(job, random.Random(47))
        process = job.start()
        assert process.ends() == 1
        assert "Finished in state OverBudget" in process.output
        # Beside those that the ceiling let through, calls of the killed run whose answer was lost may be billed.
        assert len(job.billed()) <= 24 + IN_FLIGHT
        assert job.gateway.ledger.usd <= (24 + IN_FLIGHT) * PRICE, "but for calls whose answer was lost"


class TestTwice:
    def test_who_comes_second_is_told_of_the_first_and_changes_nothing(self, job):
        with held(Lease(job.store, BATCH), "batch 'week-46'", waits=False):
            before = sorted(job.store.names())
            process = job.start()
            assert process.ends() == 1
            assert "Batch 'week-46' is being carried out by" in process.output
            assert "this run has changed and spent nothing" in process.output
            assert {*job.store.names()} - {*before} == {"_batch/batch.json"}
        assert job.gateway.ledger.calls == []
        assert job.start().ends() == 0
        job.is_whole()
