"""The bound that halves on 429 and grows again."""

import asyncio
import threading

import pytest

from n1n_prefect import stopping
from n1n_prefect.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        self.time += 0.001
        return self.time


@pytest.fixture
def clock():
    return Clock()


class TestSlowed:
    def test_halves_the_bound(self, clock):
        pace = Pace(8, clock)
        pace.slowed(clock(), 0)
        assert pace.limit == 4

    def test_never_below_one(self, clock):
        pace = Pace(8, clock)
        for _ in range(6):
            pace.slowed(clock(), 0)
        assert pace.limit == 1

    def test_calls_that_were_under_way_together_count_once(self, clock):
        pace = Pace(8, clock)
        began = [clock() for _ in range(8)]
        for moment in began:
            pace.slowed(moment, 0)
        assert pace.limit == 4

    def test_nobody_calls_before_the_time_the_gateway_asked_for(self, clock):
        pace = Pace(8, clock)
        pace.slowed(clock(), 30)
        assert 29 < pace._pause() <= 31.1
        clock.time += 31
        assert pace._pause() == 0

    def test_the_longest_of_several_waits_holds(self, clock):
        pace = Pace(8, clock)
        began = [clock(), clock()]
        pace.slowed(began[0], 50)
        pace.slowed(began[1], 5)
        assert pace._pause() > 45

    def test_without_a_hint_the_pause_doubles_up_to_a_minute(self, clock):
        pace, pauses = Pace(8, clock), []
        for _ in range(9):
            clock.time = pace._opens_at if pace._opens_at > clock.time else clock.time
            pace.slowed(clock(), None)
            pauses.append(pace._opens_at - clock.time)
        assert pauses[:4] == pytest.approx([1, 2, 4, 8], abs=0.1)
        assert max(pauses) == pytest.approx(60, abs=0.1)


class TestWentWell:
    def test_grows_by_one_for_each_round(self, clock):
        pace = Pace(8, clock)
        pace.slowed(clock(), 0)
        for _ in range(5):
            pace.went_well(clock())
        assert pace.limit == 5

    def test_comes_back_and_not_beyond(self, clock):
        pace = Pace(8, clock)
        pace.slowed(clock(), 0)
        for _ in range(200):
            pace.went_well(clock())
        assert pace.limit == 8

    def test_a_call_from_before_says_nothing(self, clock):
        pace, before = Pace(8, clock), clock()
        pace.slowed(clock(), 0)
        for _ in range(50):
            pace.went_well(before)
        assert pace.limit == 4

    def test_who_waits_gets_a_turn_when_the_bound_grows(self, clock):
        pace, inside = Pace(2, clock), threading.Semaphore(0)
        pace.slowed(clock(), 0)
        leave = threading.Event()

        def hold():
            with pace.turn():
                inside.release()
                leave.wait(20)

        threads = [threading.Thread(target=hold) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert inside.acquire(timeout=20)
        assert not inside.acquire(blocking=False), "only one turn at first"
        for _ in range(3):
            pace.went_well(clock())
        assert inside.acquire(timeout=20), "the second got one"
        leave.set()
        for thread in threads:
            thread.join(20)


class TestTurn:
    def test_waits_for_the_pause(self):
        pace = Pace(1)
        pace.slowed(pace.now(), 0.05)
        opens = pace._opens_at
        with pace.turn():
            assert pace.now() >= opens

    async def test_waits_in_an_event_loop_which_goes_on(self):
        pace, ticks = Pace(1), 0
        pace.slowed(pace.now(), 0.1)
        opens = pace._opens_at

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.005)

        ticking = asyncio.create_task(tick())
        async with pace.aturn():
            assert pace.now() >= opens
        ticking.cancel()
        assert ticks > 2

    def test_a_process_that_ends_does_not_wait(self):
        pace = Pace(1)
        pace.slowed(pace.now(), 3600)
        stopping.ask(1)
        try:
            with pace.turn():
                assert stopping.seconds_left() <= 1
        finally:
            stopping.forget()
