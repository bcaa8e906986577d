import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from n1n_prefect import stopping
from n1n_prefect.batch import lease
from n1n_prefect.batch.lease import Holder, Lease, held, holder_of
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.errors import InvalidRequestError, N1nError, UploadError
from tests.batch.carried_out import wait_for

NAME, WHAT = "_batch/lease.json", "batch 'week-46'"
STRANGER = Holder("a" * 32, "far-away:7", "busy-fox", "another machine", 7)


@pytest.fixture
def store(batch):
    return batch.places.store


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "_TICK_SECONDS", 0.02)
    monkeypatch.setattr(lease, "_SETTLED_SECONDS", 0.0)
    yield
    stopping.forget()


def write(store, holder):
    store.write(NAME, lease._HOLDER.dump_json(holder))


class TestHeld:
    def test_it_says_who_has_it_and_is_gone_afterwards(self, store):
        with held(Lease(store, NAME), WHAT, waits=False):
            assert holder_of(store, NAME).worker == lease.here()
        assert holder_of(store, NAME) is None

    def test_an_error_gives_it_back(self, store):
        with pytest.raises(KeyError), held(Lease(store, NAME), WHAT, waits=False):
            raise KeyError
        assert holder_of(store, NAME) is None

    def test_who_lives_is_named(self, store):
        write(store, STRANGER)
        threading.Timer(0.2, write, (store, replace(STRANGER, renewed="now"))).start()
        with (
            pytest.raises(InvalidRequestError, match=r"'busy-fox' on far-away:7\. Wait until it has ended, or cancel"),
            held(Lease(store, NAME), WHAT, waits=False),
        ):
            pass
        assert holder_of(store, NAME).token == STRANGER.token

    def test_another_in_this_process_lives_too(self, store, monkeypatch):
        monkeypatch.setattr(lease, "RENEWED_SECONDS", 0.0)
        with (
            held(Lease(store, NAME), WHAT, waits=False),
            pytest.raises(InvalidRequestError, match="Batch 'week-46' is being carried out by"),
            held(Lease(store, NAME), WHAT, waits=False),
        ):
            pass

    def test_who_may_wait_gets_it_after_the_other(self, store):
        order = []

        def first():
            with held(Lease(store, NAME), WHAT, waits=True):
                began.set()
                time.sleep(0.2)
                order.append("first")

        began = threading.Event()
        thread = threading.Thread(target=first)
        thread.start()
        began.wait()
        with held(Lease(store, NAME), WHAT, waits=True):
            order.append("second")
        thread.join()
        assert order == ["first", "second"]

    def test_who_waits_ends_with_the_process(self, store):
        write(store, STRANGER)
        stopping.ask(20)
        with pytest.raises(N1nError, match="told to end while"), held(Lease(store, NAME), WHAT, waits=True):
            pass


class TestTakenOver:
    def test_from_one_who_may_not_delete(self, store, monkeypatch):
        def refused(*args):
            raise UploadError("AccessDenied")

        monkeypatch.setattr(BatchStore, "delete", refused)
        with held(Lease(store, NAME), WHAT, waits=False):
            pass
        assert holder_of(store, NAME).is_gone

    def test_from_one_who_failed_and_said_so(self, store):
        with pytest.raises(KeyError), held(Lease(store, NAME, leaves_trace=True), WHAT, waits=False):
            raise KeyError
        assert holder_of(store, NAME).has_failed
        with held(Lease(store, NAME), WHAT, waits=False) as ours:
            assert ours.follows_lost
        with held(Lease(store, NAME), WHAT, waits=False) as ours:
            assert not ours.follows_lost

    def test_from_one_who_is_stale(self, store, monkeypatch):
        write(store, STRANGER)
        monkeypatch.setattr(lease, "STALE_SECONDS", 0.0)
        with held(Lease(store, NAME), WHAT, waits=False):
            assert holder_of(store, NAME).token != STRANGER.token

    @pytest.mark.skipif(not lease._place(), reason="only Linux tells whose processes these are")
    def test_from_a_process_that_was_killed_here(self, store):
        child = subprocess.Popen([sys.executable, "-c", ""])
        child.wait()
        write(store, replace(STRANGER, place=lease._place(), process=child.pid))
        with held(Lease(store, NAME), WHAT, waits=False):
            assert holder_of(store, NAME).process == os.getpid()

    @pytest.mark.skipif(not lease._place(), reason="only Linux tells whose processes these are")
    def test_from_one_who_had_our_number_before(self, store):
        write(store, replace(STRANGER, place=lease._place(), process=os.getpid()))
        with held(Lease(store, NAME), WHAT, waits=False):
            assert holder_of(store, NAME).token != STRANGER.token

    @pytest.mark.skipif(not lease._place(), reason="only Linux tells whose processes these are")
    def test_not_from_a_process_that_lives_here(self):
        assert not replace(STRANGER, place=lease._place(), process=os.getppid()).is_gone
        assert not STRANGER.is_gone

    def test_from_what_nobody_understands(self, store):
        store.write(NAME, b"[]")
        with held(Lease(store, NAME), WHAT, waits=False):
            assert holder_of(store, NAME)

    def test_who_was_taken_over_knows_and_leaves_it_alone(self, store, monkeypatch):
        monkeypatch.setattr(lease, "RENEWED_SECONDS", 0.0)
        with held(Lease(store, NAME), WHAT, waits=False) as ours:
            assert ours.reason == ""
            # A renewal may be under way just now, and would be the later one.
            wait_for(lambda: write(store, STRANGER) or ours.is_lost, "that it is lost")
            assert ours.reason == "Another process has taken this over."
        assert holder_of(store, NAME) == STRANGER


class TestToldToEnd:
    def test_those_who_listen_hear_of_it(self, store, monkeypatch):
        monkeypatch.setattr(lease, "_HEARD_SECONDS", 0.0)
        with (
            held(Lease(store, NAME, tells_end=True), WHAT, waits=False),
            held(Lease(store, "chunk", listens_to=NAME), WHAT, waits=False) as chunk,
        ):
            assert chunk.reason == ""
            stopping.ask(20)
            wait_for(lambda: chunk.is_told, "that the chunk hears of it")
            assert chunk.reason == "The run of the batch was told to end."

    def test_who_comes_later_hears_it_at_once(self, store):
        write(store, replace(STRANGER, ends=True))
        with held(Lease(store, "chunk", listens_to=NAME), WHAT, waits=False) as chunk:
            assert chunk.is_told

    def test_who_does_not_tell_is_not_heard(self, store, monkeypatch):
        monkeypatch.setattr(lease, "RENEWED_SECONDS", 0.0)
        with held(Lease(store, NAME), WHAT, waits=False):
            stopping.ask(20)
            time.sleep(0.1)
            assert not holder_of(store, NAME).ends
