"""Bounds and joins across threads and event loops at once."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.flights import InFlight, SingleFlight


class Gauge:
    def __init__(self):
        self.now, self.most, self.total = 0, 0, 0
        self.lock = threading.Lock()

    def __enter__(self):
        with self.lock:
            self.now += 1
            self.total += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_):
        with self.lock:
            self.now -= 1


class TestInFlight:
    def test_threads_and_loops_share_one_bound(self):
        bound, gauge = InFlight(3), Gauge()
        pause = threading.Event()

        def in_thread():
            with bound.slot(), gauge:
                pause.wait(0.005)

        async def in_loop():
            async def one():
                async with bound.aslot():
                    with gauge:
                        await asyncio.sleep(0.005)

            await asyncio.gather(*(one() for _ in range(20)))

        with ThreadPoolExecutor(12) as pool:
            work = [pool.submit(in_thread) for _ in range(20)] + [pool.submit(asyncio.run, in_loop()) for _ in range(2)]
            for future in work:
                future.result(timeout=30)
        assert (gauge.most, gauge.total) == (3, 60)

    async def test_a_cancelled_waiter_leaves_no_slot_behind(self):
        bound = InFlight(1)
        async with bound.aslot():
            waiting = [asyncio.create_task(self._hold(bound)) for _ in range(5)]
            await asyncio.sleep(0.01)
            for task in waiting[:4]:
                task.cancel()
            await asyncio.gather(*waiting[:4], return_exceptions=True)
        await asyncio.wait_for(waiting[4], 5)
        await asyncio.wait_for(self._hold(bound), 5)

    async def test_a_slot_handed_to_one_who_is_cancelled_goes_on(self):
        bound = InFlight(1)
        for _ in range(50):
            async with bound.aslot():
                waiting = asyncio.create_task(self._hold(bound))
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(self._hold(bound), 5)

    @staticmethod
    async def _hold(bound):
        async with bound.aslot():
            await asyncio.sleep(0)

    def test_an_error_gives_the_slot_back(self):
        bound = InFlight(1)
        for _ in range(3):
            with pytest.raises(KeyError), bound.slot():
                raise KeyError


class TestSingleFlight:
    def test_equal_calls_in_threads_are_one(self):
        flights, calls = SingleFlight(), []
        together = threading.Barrier(50)

        def call():
            calls.append(1)
            threading.Event().wait(0.05)
            return "image"

        def one():
            together.wait()
            return flights.run("key", call)

        with ThreadPoolExecutor(50) as pool:
            results = [future.result(timeout=30) for future in [pool.submit(one) for _ in range(50)]]
        assert len(calls) == 1
        assert [value for value, _ in results] == ["image"] * 50
        assert sum(not joined for _, joined in results) == 1

    async def test_a_hundred_gathered_calls_over_five_keys(self):
        flights, calls = SingleFlight(), []

        async def call(key):
            calls.append(key)
            await asyncio.sleep(0.01)
            return key

        results = await asyncio.gather(*(flights.arun(str(n % 5), lambda n=n: call(str(n % 5))) for n in range(100)))
        assert sorted(calls) == ["0", "1", "2", "3", "4"]
        assert [value for value, _ in results] == [str(n % 5) for n in range(100)]

    async def test_when_the_leader_is_cancelled_a_waiter_leads(self):
        flights, calls = SingleFlight(), []

        async def call():
            calls.append(1)
            await asyncio.sleep(0.05 if len(calls) == 1 else 0)
            return "image"

        leader = asyncio.create_task(flights.arun("k", call))
        await asyncio.sleep(0.01)
        waiters = [asyncio.create_task(flights.arun("k", call)) for _ in range(10)]
        await asyncio.sleep(0.01)
        leader.cancel()
        assert {value for value, _ in await asyncio.gather(*waiters)} == {"image"}
        assert len(calls) == 2

    async def test_a_waiters_cancellation_leaves_the_flight_alone(self):
        flights = SingleFlight()

        async def call():
            await asyncio.sleep(0.03)
            return "image"

        leader = asyncio.create_task(flights.arun("k", call))
        await asyncio.sleep(0)
        waiter = asyncio.create_task(flights.arun("k", call))
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert (await leader)[0] == "image"

    def test_an_error_is_the_leaders_own_and_a_later_call_starts_anew(self):
        flights = SingleFlight()
        with pytest.raises(KeyError):
            flights.run("k", lambda: {}["missing"])
        assert flights.run("k", lambda: "image") == ("image", False)

    @pytest.mark.timeout(30)
    async def test_a_synchronous_call_in_the_loop_that_leads_is_refused_instead_of_waiting_for_ever(self):
        flights = SingleFlight()

        async def call():
            await asyncio.sleep(0)
            return "image"

        leader = asyncio.create_task(flights.arun("k", call))
        await asyncio.sleep(0)
        with pytest.raises(InvalidRequestError, match="agenerate_image"):
            flights.run("k", lambda: "never")
        assert await asyncio.to_thread(flights.run, "k", lambda: "too late") in (("image", True), ("too late", False))
        assert (await leader)[0] == "image"


class TestASynchronousCallInALoop:
    @pytest.mark.timeout(30)
    async def test_it_is_refused_also_where_a_thread_leads(self):
        flights, go = SingleFlight(), threading.Event()
        leader = asyncio.get_running_loop().run_in_executor(None, flights.run, "k", lambda: go.wait(20))
        while not flights._flights:  # noqa: ASYNC110 - a flight has no event
            await asyncio.sleep(0.01)
        with pytest.raises(InvalidRequestError, match="agenerate_image"):
            flights.run("k", lambda: "never")
        go.set()
        await leader

    @pytest.mark.timeout(30)
    async def test_a_bound_that_was_passed_is_kept_by_those_who_wait(self):
        bound, most, inside = InFlight(2), 0, 0

        async def call():
            nonlocal most, inside
            async with bound.aslot():
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.005)
                inside -= 1

        calls = [asyncio.create_task(call()) for _ in range(30)]
        for _ in range(10):
            await asyncio.sleep(0.001)
            with bound.slot():
                pass
        await asyncio.gather(*calls)
        assert (most, bound._busy) == (2, 0)

    @pytest.mark.timeout(30)
    async def test_it_passes_a_bound_whose_holders_need_the_loop(self):
        bound = InFlight(1)
        async with bound.aslot():
            with bound.slot():
                assert bound._busy == 2
        assert bound._busy == 0
