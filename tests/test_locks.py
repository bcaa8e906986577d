"""Locks that processes share, in a real Redis and with real processes."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid

import pytest
from prefect.cache_policies import INPUTS
from prefect.locking.filesystem import FileSystemLockManager
from prefect.locking.memory import MemoryLockManager
from prefect.settings import PREFECT_API_URL
from redis import Redis

from n1n_prefect import PaidOnce, errors
from n1n_prefect.locks import SharedLock
from n1n_prefect.policies import _ours_in
from tests.redis_server import lock_manager_at


class TestSharedLock:
    @pytest.fixture
    def manager(self, redis_server):
        return lock_manager_at(redis_server)

    def test_one_of_two_has_it_until_it_gives_it_back(self, manager, redis_server):
        key = uuid.uuid4().hex
        ours, theirs = SharedLock(manager, key, 10), SharedLock(lock_manager_at(redis_server), key, 10)
        assert ours.acquire()
        assert not theirs.acquire()
        theirs.release()  # it is not theirs
        assert not theirs.acquire()
        ours.release()
        assert theirs.acquire()
        theirs.release()

    def test_it_ends_by_itself(self, manager, redis_server):
        key = uuid.uuid4().hex
        lock = SharedLock(manager, key, 10)
        assert lock.acquire()
        assert 0 < Redis.from_url(redis_server).ttl(f"lock:n1n-call-{key}") <= 2 * 10 + 120 + 60
        lock.release()

    def test_one_that_ended_meanwhile_is_left_to_who_has_it_now(self, manager, redis_server, caplog):
        key = uuid.uuid4().hex
        lock = SharedLock(manager, key, 10)
        assert lock.acquire()
        Redis.from_url(redis_server).set(f"lock:n1n-call-{key}", "somebody else")
        lock.release()
        assert "was not given back" in caplog.text
        assert Redis.from_url(redis_server).get(f"lock:n1n-call-{key}") == b"somebody else"

    def test_a_lost_server_spends_nothing(self, own_redis):
        with own_redis() as url:
            lock = SharedLock(lock_manager_at(url), uuid.uuid4().hex, 10)
        with pytest.raises(errors.N1nError, match="nothing was spent") as caught:
            lock.acquire()
        assert (caught.value.is_transient, caught.value.charged) == (True, "no")


class TestPolicies:
    def test_a_lock_manager_stays_with_the_policy(self):
        manager = MemoryLockManager()
        for policy in (PaidOnce(lock_manager=manager), PaidOnce("a").configure(lock_manager=manager)):
            assert _ours_in(policy).lock_manager is manager
            assert _ours_in(policy + INPUTS).lock_manager is manager
        assert PaidOnce("a").configure(lock_manager=manager).scope == "a"

    def test_what_fails_under_load_is_refused(self, tmp_path):
        with pytest.raises(errors.InvalidRequestError, match="RedisLockManager"):
            PaidOnce(lock_manager=FileSystemLockManager(tmp_path))
        with pytest.raises(errors.InvalidRequestError, match="SERIALIZABLE"):
            PaidOnce().configure(isolation_level="SERIALIZABLE")


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestTwoProcesses:
    @pytest.fixture
    def gateway(self, n1n_gateway_factory):
        return n1n_gateway_factory(canned=True, grain=False)

    @pytest.fixture
    def start(self, gateway, redis_server, tmp_path):
        """Starts a process that waits for `go`; all share their storage and their locks."""
        children, go = [], tmp_path / "go"

        def starts(stops_at="", reached=""):
            ready = tmp_path / f"ready-{len(children)}"
            where = [gateway.base_url, redis_server, str(ready), str(go), stops_at, str(reached)]
            env = {
                **os.environ,
                "PREFECT_API_URL": PREFECT_API_URL.value(),
                "PREFECT_LOCAL_STORAGE_PATH": str(tmp_path / "storage"),
            }
            command = [sys.executable, "-m", "tests.sharing", *where]
            child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
            children.append(child)
            wait_for(ready.exists, child)
            return child

        starts.go = go
        yield starts
        for child in children:
            child.kill()
            child.communicate()

    @pytest.fixture(autouse=True)
    def no_locks_left(self, redis_server):
        Redis.from_url(redis_server).flushdb()

    def test_the_same_call_in_the_same_second_is_paid_once(self, gateway, start):
        gateway.faults.add("slow", times=None, seconds=2)
        children = [start(), start()]
        start.go.touch()
        told = [told_by(child) for child in children]
        assert sorted(one["reused"] for one in told) == [False, True]
        assert told[0]["sha256"] == told[1]["sha256"]
        assert len(gateway.ledger.calls) == 1

    def test_after_a_killed_holder_the_second_finds_an_unknown_outcome_in_the_journal(self, gateway, start):
        gateway.faults.add("slow", seconds=600)
        first = start()
        start.go.touch()
        wait_for(lambda: gateway.ledger.calls, first)
        kill(first)
        told = told_by(start())
        assert told == {"reused": False, "possible_duplicates": 1, "sha256": told["sha256"]}
        assert len(gateway.ledger.calls) == 2

    def test_what_a_killed_holder_received_is_found_by_the_second_and_costs_nothing(self, gateway, start, tmp_path):
        reached = tmp_path / "reached"
        first = start(stops_at=".answered", reached=reached)
        start.go.touch()
        wait_for(reached.exists, first)
        kill(first)
        assert told_by(start())["possible_duplicates"] == 0
        assert len(gateway.ledger.billed) == 1


def told_by(child):
    out, _ = child.communicate(timeout=120)
    return json.loads(out.splitlines()[-1])


def kill(child):
    child.kill()
    assert child.wait() == -signal.SIGKILL


def wait_for(condition, child, seconds=90):
    for _ in range(seconds * 50):
        if condition():
            return
        assert child.poll() is None, "the process ended"
        time.sleep(0.02)
    pytest.fail(f"it did not come to that within {seconds} s")
