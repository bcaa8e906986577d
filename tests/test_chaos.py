"""A real process against a real server, killed at every step and at random, and resumed under the same flow run.

`CHAOS_ROUNDS=40 pytest tests/test_chaos.py -s` plays more rounds and prints what they came to.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from prefect.states import Scheduled

from tests.chaos import draw_all

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "3"))
IMAGES = 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.prefect,
    pytest.mark.usefixtures("prefect_api"),
    pytest.mark.timeout(60 + 60 * ROUNDS),
]


@dataclass
class Chaos:
    """One flow run, and the processes that carry it on."""

    gateway: object
    storage: str
    prompts: list[str]
    at_once: int
    flow_run_id: str = ""
    kills: int = 0
    killed: list = field(default_factory=list)
    last: dict = field(default_factory=dict)

    def __post_init__(self):
        with get_client(sync_client=True) as client:
            parameters = {"base_url": self.gateway.base_url, "prompts": self.prompts}
            self.flow_run_id = str(client.create_flow_run(draw_all, parameters=parameters).id)

    def start(self, *point):
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(self.flow_run_id, Scheduled(), force=True)
        env = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "PREFECT_LOCAL_STORAGE_PATH": self.storage}
        command = [sys.executable, "-m", "tests.chaos", self.flow_run_id, str(self.at_once), *point]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def dies_at(self, prompt, step):
        child = self.start(prompt, step)
        child.communicate(timeout=60)
        assert child.returncode == -signal.SIGKILL, f"{prompt} came to no step {step}"
        self.kills += 1

    def is_killed(self, when):
        child = self.start()
        calls = len(self.gateway.ledger.calls)
        while len(self.gateway.ledger.calls) == calls and child.poll() is None:
            time.sleep(0.01)
        time.sleep(when)
        self.killed.append(datetime.now(timezone.utc))
        child.kill()
        child.communicate()
        self.kills += child.returncode == -signal.SIGKILL

    def ends(self):
        """The number of possible duplicates by prompt, once the run has come to its end."""
        child = self.start()
        out, _ = child.communicate(timeout=120)
        assert child.returncode == 0
        self.last = {prompt: (sha256, duplicates) for prompt, sha256, duplicates in json.loads(out.splitlines()[-1])}
        return {prompt: duplicates for prompt, (_, duplicates) in self.last.items() if duplicates}

    def paid_again_though_answered(self):
        """How many calls were made again although the gateway had their answer ready when the process was killed."""
        again = {prompt for prompt, times in self.billed().items() if times > 1}
        return sum(
            call.prompt_excerpt in again and any(call.at < kill and self.ended(call) < kill for kill in self.killed)
            for call in self.gateway.ledger.billed
            if call.delivered and not self.is_last(call)
        )

    @staticmethod
    def ended(call):
        return call.at + timedelta(seconds=call.seconds)

    def is_last(self, call):
        """Whether it is the call that gave the prompt its image."""
        same = [other for other in self.gateway.ledger.billed if other.prompt_excerpt == call.prompt_excerpt]
        return same[-1] is call

    def billed(self):
        return Counter(call.prompt_excerpt for call in self.gateway.ledger.billed)


@pytest.fixture
def chaos(n1n_gateway_factory, tmp_path):
    def make(prompts, at_once, **options):
        gateway = n1n_gateway_factory(canned=True, grain=False, **options)
        return Chaos(gateway, str(tmp_path / f"storage-{gateway.base_url[-5:]}"), prompts, at_once)

    return make


class TestKilledAtEveryStep:
    STEPS = (
        "Read 1", "Turn 1", "Open 1", "Write 1", "Send 1", "Recall 1", "Describe 1", "Write 2", "Write 3", "Forget 1",
        "end",
    )  # fmt: skip

    def test_each_image_comes_and_is_billed_once(self, chaos):
        run = chaos([f"killed at {step}" for step in self.STEPS], at_once=1)
        for step in self.STEPS:
            run.dies_at(f"killed at {step}", step)
        assert run.ends() == {"killed at Send 1": 1}  # *sent* is written, and nobody can know that it did not leave
        assert run.billed() == {f"killed at {step}": 1 for step in self.STEPS}
        assert len({sha256 for sha256, _ in run.last.values()}) == len(self.STEPS)


class TestKilledAtRandom:
    def test_nothing_is_lost_and_only_what_was_in_flight_may_be_paid_twice(self, chaos, capsys):
        chance, told = random.Random(2026), Counter()
        for number in range(ROUNDS):
            run = chaos([f"round {number} image {image}" for image in range(IMAGES)], 4, latency_seconds=0.2)
            for _ in range(chance.randint(1, 2)):
                run.is_killed(chance.uniform(0, 0.9))
            unknown, billed = run.ends(), run.billed()
            assert set(run.last) == set(billed) == set(run.prompts)
            for prompt, times in billed.items():
                assert times <= 1 + unknown.get(prompt, 0), f"{prompt} was billed {times} times"
            told += Counter(
                rounds=1,
                kills=run.kills,
                images=IMAGES,
                billed=billed.total(),
                reported_unknown=sum(unknown.values()),
                paid_twice=sum(times > 1 for times in billed.values()),
                paid_twice_though_answered=run.paid_again_though_answered(),
            )
        with capsys.disabled():
            print(f"\nkilled at random: {dict(told)}")
