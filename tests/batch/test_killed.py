"""A batch in a process of its own, killed again and again and started under the same name."""

import random

import pytest

ROWS, CHUNK = 60, 12

pytestmark = [
    pytest.mark.slow,
    pytest.mark.prefect,
    pytest.mark.usefixtures("prefect_api"),
    pytest.mark.timeout(600),
]


class TestKilled:
    def test_nothing_is_lost_and_only_what_was_under_way_may_be_paid_twice(self, job_of, capsys):
        job = job_of(ROWS, gateway={"latency_seconds": 0.3}, key={"max_in_flight": 6}, options={"chunk_size": CHUNK})
        chance, kills = random.Random(46), 0
        for _ in range(4):
            process = job.start()
            job.calls(len(job.gateway.ledger.calls) + chance.randint(1, 12))
            process.kill()
            kills += 1
        assert job.start().ends() == 0, job.processes[-1].output
        job.is_whole()
        twice = sum(times > 1 for times in job.billed().values())
        with capsys.disabled():
            print(
                f"\n{kills} kills, {len(job.gateway.ledger.calls)} calls, {twice} paid twice, "
                f"{job.stats()['possible_duplicates']} told of"
            )
