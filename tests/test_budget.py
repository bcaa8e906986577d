import asyncio
import pickle
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from datetime import datetime, timedelta, timezone
from multiprocessing import get_context

import pytest
import redis
from prefect import flow, unmapped
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.states import Scheduled

from n1n_prefect import (
    HintedDelays,
    N1nCredentials,
    Price,
    Spending,
    agenerate_image,
    budget,
    errors,
    generate_image,
    image_to_s3,
)
from n1n_prefect.budget import Allowance, reserve, settle
from n1n_prefect.images import ImageRequest
from n1n_prefect.paid_call import PaidCall
from n1n_prefect.pricing import estimate_usd
from n1n_prefect.sources import LoadedRequest
from n1n_prefect.steps import Reserve, Settle, Write, run

STORE = "PREFECT_INTEGRATIONS_N1N_BUDGET_STORE"
NOON = datetime(2026, 11, 20, 12, tzinfo=timezone.utc)


@pytest.fixture
def scope():
    return f"run:{uuid.uuid4()}"


@pytest.fixture
def account():
    return f"account {uuid.uuid4()}"


@pytest.fixture
def store(redis_server, monkeypatch):
    monkeypatch.setenv(STORE, redis_server)
    with redis.Redis.from_url(redis_server) as client:
        yield client


def run_ceiling(usd):
    return Spending(max_usd_per_run=usd)


def day_ceiling(usd):
    return Spending(max_usd_per_day=usd)


def spent(store, account, day="2026-11-20"):
    """What Redis has, in millionths of a dollar."""
    return int(store.get(f"n1n:spent:{account}:{day}") or 0)


class TestPerRun:
    def test_up_to_the_ceiling_inclusive(self, scope):
        for _ in range(10):
            reserve(scope, 0.1, run_ceiling(1))
        with pytest.raises(errors.BudgetExceededError):
            reserve(scope, 0.0001, run_ceiling(1))

    def test_the_call_that_would_pass_it_is_not_counted(self, scope):
        reserve(scope, 0.6, run_ceiling(1))
        with pytest.raises(errors.BudgetExceededError):
            reserve(scope, 0.6, run_ceiling(1))
        reserve(scope, 0.4, run_ceiling(1))

    def test_what_was_given_back_can_be_spent(self, scope):
        settle(reserve(scope, 1.0, run_ceiling(1)), 0.0)
        reserve(scope, 1.0, run_ceiling(1))

    def test_a_call_is_corrected_to_what_it_cost(self, scope):
        settle(reserve(scope, 0.9, run_ceiling(1)), 0.2)
        settle(reserve(scope, 0.1, run_ceiling(1)), 0.5)
        with pytest.raises(errors.BudgetExceededError, match=r"\$0\.7000 spent"):
            reserve(scope, 0.3001, run_ceiling(1))
        reserve(scope, 0.3, run_ceiling(1))

    def test_a_correction_past_the_ceiling_is_not_refused_and_what_is_free_still_goes(self, scope):
        settle(reserve(scope, 0.9, run_ceiling(1)), 1.2)
        reserve(scope, 0.0, run_ceiling(1))
        with pytest.raises(errors.BudgetExceededError, match=r"\$1\.2000 spent"):
            reserve(scope, 0.0001, run_ceiling(1))

    def test_runs_have_budgets_of_their_own(self, scope):
        reserve(scope, 1.0, run_ceiling(1))
        reserve(f"{scope}-other", 1.0, run_ceiling(1))

    def test_a_ceiling_of_nothing_lets_nothing_through(self, scope):
        with pytest.raises(errors.BudgetExceededError):
            reserve(scope, 0.039, run_ceiling(0))

    def test_without_a_ceiling_nothing_is_counted(self, scope):
        assert reserve(scope, 1e300, Spending()).counts == ()
        reserve(scope, 1.0, run_ceiling(1))

    def test_the_error_says_the_figures_and_what_to_do(self, scope):
        reserve(scope, 0.9, run_ceiling(1))
        with pytest.raises(errors.BudgetExceededError, match=r"\$0\.2000 .* \$1\.00 \(\$0\.9000 spent\)") as caught:
            reserve(scope, 0.2, run_ceiling(1))
        assert "max_usd_per_run" in str(caught.value)
        assert (caught.value.charged, caught.value.is_transient) == ("no", False)

    def test_a_small_ceiling_is_not_rounded_away(self, scope):
        with pytest.raises(errors.BudgetExceededError, match=r"ceiling of \$0\.0040"):
            reserve(scope, 0.2, run_ceiling(0.004))

    def test_threads_together_do_not_pass_it(self, scope):
        gate, let_through = threading.Barrier(16), []

        def spend():
            gate.wait()
            for _ in range(20):
                try:
                    reserve(scope, 0.01, run_ceiling(1))
                except errors.BudgetExceededError:
                    return
                let_through.append(1)

        threads = [threading.Thread(target=spend) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(let_through) == 100


class TestAllowance:
    def test_a_chunk_spends_its_part_and_gives_back_the_rest(self, scope):
        allowance = Allowance.take(scope, 0.6, ceiling=1.0)
        with pytest.raises(errors.BudgetExceededError):
            reserve(scope, 0.5, run_ceiling(1))
        with pickle.loads(pickle.dumps(allowance)).counted() as chunk:
            reserve("another process's run", 0.2, run_ceiling(1))
            settle(reserve(scope, 0.4, run_ceiling(100)), 0.3)
            with pytest.raises(errors.BudgetExceededError, match=r"this part's share of .* \$0\.60 \(\$0\.5000 spent"):
                reserve(scope, 0.2, run_ceiling(100))
        assert chunk.spent_usd == pytest.approx(0.5)
        allowance.give_back(chunk.spent_usd)
        reserve(scope, 0.5, run_ceiling(1))
        with pytest.raises(errors.BudgetExceededError, match=r"\$1\.0000 spent"):
            reserve(scope, 0.01, run_ceiling(1))

    def test_a_chunk_s_lost_attempt_is_counted_when_it_is_found(self, scope):
        with Allowance.take(scope, 0.6, ceiling=1.0).counted() as chunk:
            chunk.add(0.5)
            with pytest.raises(errors.BudgetExceededError):
                reserve(scope, 0.2, run_ceiling(1))
        assert chunk.spent_usd == 0.5

    def test_the_last_chunk_gets_what_is_left_and_the_one_after_it_nothing(self, scope):
        assert [Allowance.take(scope, 0.4, ceiling=1).usd for _ in range(3)] == [0.4, 0.4, 0.2]
        with pytest.raises(errors.BudgetExceededError, match=r"\$1\.0000 spent"):
            Allowance.take(scope, 0.4, ceiling=1)

    def test_chunks_side_by_side_do_not_share(self, scope):
        first, second = (Allowance.take(scope, 0.5, ceiling=1) for _ in range(2))

        def spend(allowance):
            with allowance.counted() as chunk:
                reserve(scope, 0.5, run_ceiling(1))
                return chunk

        assert [copy_context().run(spend, each).spent_usd for each in (first, second)] == [0.5, 0.5]

    def test_chunks_in_processes_spend_what_the_run_may_and_not_more(self, scope):
        allowances = [Allowance.take(scope, 0.5, ceiling=1) for _ in range(2)]
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            spent_usd = list(pool.map(spend_all, allowances, [0.02, 0.15]))
        assert spent_usd == [0.5, pytest.approx(0.45)]
        for allowance, usd in zip(allowances, spent_usd, strict=True):
            allowance.give_back(usd)
        assert Allowance.take(scope, 1, ceiling=1).usd == 0.05

    def test_thoughts_past_the_allowance_are_counted_in_the_run(self, scope):
        allowance = Allowance.take(scope, 0.5, ceiling=1)
        allowance.give_back(0.7)
        with pytest.raises(errors.BudgetExceededError, match=r"\$0\.7000 spent"):
            reserve(scope, 0.4, run_ceiling(1))


def spend_all(allowance, usd):
    with allowance.counted() as chunk, suppress(errors.BudgetExceededError):
        while True:
            reserve(allowance.scope, usd, run_ceiling(1))
    return chunk.spent_usd


class TestPerDay:
    def test_up_to_the_ceiling_inclusive_and_corrected(self, store, scope, account):
        given = {"account": account, "now": NOON}
        settle(reserve(scope, 0.9, day_ceiling(1), **given), 0.3)
        reserve(scope, 0.7, day_ceiling(1), **given)
        with pytest.raises(errors.BudgetExceededError, match=r"\$0\.0001 .* \$1\.00 \(\$1\.0000 spent") as caught:
            reserve(scope, 0.0001, day_ceiling(1), **given)
        for part in ("2026-11-20", account, "max_usd_per_day", "MAX_USD_PER_DAY"):
            assert part in str(caught.value)
        assert (caught.value.charged, caught.value.is_transient) == ("no", False)
        assert spent(store, account) == 1_000_000

    def test_runs_and_processes_share_it_and_accounts_do_not(self, store, account):
        reserve("a run", 1.0, day_ceiling(1), account=account, now=NOON)
        with pytest.raises(errors.BudgetExceededError):
            reserve("another", 1.0, day_ceiling(1), account=account, now=NOON)
        reserve("another", 1.0, day_ceiling(1), account=f"{account}, too", now=NOON)

    def test_a_new_day_begins_in_utc_and_a_correction_goes_to_the_day_of_the_call(self, store, scope, account):
        late = datetime(2026, 11, 20, 23, 59, 59, tzinfo=timezone.utc)
        in_tokyo = (late + timedelta(seconds=2)).astimezone(timezone(timedelta(hours=9)))
        before = reserve(scope, 1.0, day_ceiling(1), account=account, now=late)
        after = reserve(scope, 1.0, day_ceiling(1), account=account, now=in_tokyo)
        settle(before, 0.25)
        assert (spent(store, account), spent(store, account, "2026-11-21")) == (250_000, 1_000_000)
        settle(after, 0.0)
        assert (spent(store, account), spent(store, account, "2026-11-21")) == (250_000, 0)

    def test_the_counter_goes_after_two_days(self, store, scope, account):
        reserve(scope, 1.0, day_ceiling(1), account=account, now=NOON)
        assert 172_000 < store.ttl(f"n1n:spent:{account}:2026-11-20") <= 172_800

    def test_a_counter_that_was_lost_is_not_a_credit(self, store, scope, account):
        reservation = reserve(scope, 1.0, day_ceiling(1), account=account, now=NOON)
        store.delete(f"n1n:spent:{account}:2026-11-20")
        settle(reservation, 0.0)
        assert spent(store, account) == 0

    def test_what_the_day_refuses_is_given_back_to_the_run(self, store, scope, account):
        both = Spending(max_usd_per_run=1, max_usd_per_day=0.5)
        with pytest.raises(errors.BudgetExceededError, match="the ceiling for 2026"):
            reserve(scope, 0.6, both, account=account, now=NOON)
        reserve(scope, 1.0, run_ceiling(1))
        assert spent(store, account) == 0

    def test_the_greatest_amounts_are_counted_too(self, store, scope, account):
        reserve(scope, 1e12, day_ceiling(1e300), account=account, now=NOON)
        with pytest.raises(errors.BudgetExceededError):
            reserve(scope, 1.0, day_ceiling(1e300), account=account, now=NOON)
        assert spent(store, account) == 9 * 10**15

    def test_processes_at_the_same_moment_do_not_pass_it_together(self, store, account):
        spender = [sys.executable, "-c", _SPENDER, account]
        processes = [
            subprocess.Popen(spender, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        made = [int(process.communicate()[0]) for process in processes]
        assert sum(made) == 100
        assert spent(store, account) == 1_000_000

    def test_a_killed_process_leaves_what_it_had_under_way_counted(self, store, account):
        code = f"{_SPENDER_START}; reserve('r', 0.6, Spending(max_usd_per_day=1), **given); os.kill(os.getpid(), 9)"
        assert subprocess.run([sys.executable, "-c", code, account], check=False).returncode == -9
        assert spent(store, account) == 600_000

    def test_a_correction_that_fails_leaves_the_estimate_and_says_so(
        self, own_redis, scope, account, monkeypatch, caplog
    ):
        with own_redis() as url:
            monkeypatch.setenv(STORE, url)
            reservation = reserve(scope, 0.5, day_ceiling(1), account=account, now=NOON)
            stop(url)
            settle(reservation, 0.0)
        assert "stays counted at its estimate for 2026-11-20" in caplog.text


def stop(url):
    with redis.Redis.from_url(url) as client:
        client.shutdown(nosave=True)


_SPENDER_START = """
import os, sys, datetime
from n1n_prefect import Spending, errors
from n1n_prefect.budget import reserve
now = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.timezone.utc)
given = {"account": sys.argv[1], "now": now}""".strip()
_SPENDER = f"""
{_SPENDER_START}
reserve("warm", 0.0, Spending(max_usd_per_day=1), **given)
print("ready", flush=True)
sys.stdin.readline()
made = 0
try:
    for made in range(1000):
        reserve("run", 0.01, Spending(max_usd_per_day=1), **given)
except errors.BudgetExceededError:
    print(made)
"""


class TestInThePaidCall:
    """What the sequence reserves, and what it says that the call cost."""

    def counted(self, fail_at, error):
        steps = []

        def do(step):
            steps.append(step)
            if isinstance(step, fail_at):
                raise error
            return "the reservation" if isinstance(step, Reserve) else None

        call = PaidCall(LoadedRequest(ImageRequest("a red fox")), "0" * 64, run_ceiling(1))
        with pytest.raises(type(error)):
            run(call.steps(), do)
        return [step for step in steps if isinstance(step, Reserve | Settle)]

    def test_a_journal_that_could_not_be_written_costs_nothing(self):
        first, last = self.counted(Write, errors.StagingError("disk full"))
        assert first.usd > 0.03
        assert last == Settle("the reservation", 0.0)

    def test_a_call_over_the_ceiling_leaves_no_trace(self):
        assert len(self.counted(Reserve, errors.BudgetExceededError("too much"))) == 1


# ── through the engine ───────────────────────────────────────────────────────

ONCE = {"retry_delay_seconds": HintedDelays([0.01])}
FLAT = {"gemini-2.5-flash-image": Price(per_image=0.04)}


@pytest.fixture
def gateway(n1n_gateway_factory):
    return n1n_gateway_factory(canned=True, grain=False)


@pytest.fixture
def credentials(gateway, account):
    return N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url, account=account, prices=FLAT)


def flow_run_of(a_flow):
    with get_client(sync_client=True) as client:
        return client.create_flow_run(a_flow, state=Scheduled())


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestARunOverItsCeiling:
    def test_ends_with_every_reason_and_finds_what_was_paid_again(self, gateway, credentials, s3_location):
        prompts = [f"fox {number}" for number in range(5)]

        @flow
        def draw(usd: float):
            given = {"credentials": unmapped(credentials), "destination": unmapped(s3_location)}
            futures = image_to_s3.map(prompts, **given, spending=unmapped(run_ceiling(usd)))
            return [future.result() for future in futures]

        first = flow_run_of(draw)
        outcomes = run_flow(draw, flow_run=first, parameters={"usd": 0.1})
        assert sorted(outcome.status for outcome in outcomes) == ["over_budget"] * 3 + ["uploaded"] * 2
        assert {outcome.charged for outcome in outcomes if outcome.status == "over_budget"} == {"no"}
        assert len(gateway.ledger.billed) == 2
        assert all(outcome.image.read_bytes() for outcome in outcomes if outcome.ok)

        again = run_flow(draw, flow_run=first, parameters={"usd": 1.0})
        assert [outcome.ok for outcome in again] == [True] * 5
        assert sum(outcome.image.reused for outcome in again) == 2
        assert len(gateway.ledger.billed) == 5
        assert gateway.ledger.duplicates() == []

    def test_calls_are_counted_at_what_they_cost_and_reused_ones_not_at_all(self, gateway, credentials):
        # By tokens: with thoughts, which no estimate has.
        pro = {"credentials": credentials.model_copy(update={"prices": {}}), "model": "gemini-3-pro-image"}

        @flow
        def draw():
            images = [generate_image("a thoughtful fox", **pro, spending=run_ceiling(100)) for _ in range(3)]
            with pytest.raises(errors.BudgetExceededError) as caught:
                generate_image("one too many", **pro, spending=run_ceiling(0.2))
            return images[0].estimated_cost_usd, str(caught.value)

        cost, said = draw()
        assert cost > estimate_usd(ImageRequest("a thoughtful fox", model=pro["model"])) + 0.001
        assert f"(${cost:.4f} spent)" in said
        assert len(gateway.ledger.billed) == 1

    async def test_equal_calls_at_the_same_moment_are_counted_once(self, gateway, credentials):
        given = {"credentials": credentials, "spending": run_ceiling(0.05)}

        @flow
        async def draw():
            return await asyncio.gather(*[agenerate_image("the same fox", **given) for _ in range(8)])

        assert len({image.sha256 for image in await draw()}) == 1
        assert len(gateway.ledger.billed) == 1

    def test_a_chunk_s_allowance_reaches_its_tasks_on_threads(self, gateway, credentials):
        given = {"credentials": unmapped(credentials), "spending": unmapped(run_ceiling(100))}

        @flow
        def draw():
            with Allowance("run", 0.09).counted() as chunk:
                states = generate_image.map(["one", "two", "three"], **given, return_state=True)
            return [state.is_completed() for state in states], chunk.spent_usd

        completed, spent_usd = draw()
        assert (sum(completed), spent_usd) == (2, pytest.approx(0.08))
        assert len(gateway.ledger.billed) == 2

    async def test_and_those_of_an_asynchronous_flow(self, gateway, credentials):
        given = {"credentials": credentials, "spending": run_ceiling(100)}

        @flow
        async def draw():
            with Allowance("run", 0.09).counted() as chunk:
                calls = [agenerate_image(prompt, **given) for prompt in ("one", "two", "three")]
                ended = await asyncio.gather(*calls, return_exceptions=True)
            return [type(end).__name__ for end in ended], chunk.spent_usd

        ended, spent_usd = await draw()
        assert sorted(ended) == ["BudgetExceededError", "GeneratedImage", "GeneratedImage"]
        assert spent_usd == pytest.approx(0.08)


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestADayOverItsCeiling:
    @pytest.fixture(autouse=True)
    def _noon(self, monkeypatch):
        monkeypatch.setattr(budget, "_now", lambda: NOON)  # midnight may come at any time

    def test_runs_together_do_not_pass_it_and_a_free_failure_is_given_back(self, gateway, credentials, account, store):
        given = {"credentials": credentials, "spending": day_ceiling(0.09)}
        gateway.faults.add("bad_request", match="not charged")

        @flow
        def draw(*prompts):
            return [generate_image(prompt, **given, return_state=True).is_completed() for prompt in prompts]

        assert draw("not charged", "one") == [False, True]
        assert draw("two", "three") == [True, False]
        assert draw("four") == [False]
        assert [call.prompt_excerpt for call in gateway.ledger.billed] == ["one", "two"]
        assert spent(store, account) == 80_000

    async def test_it_is_counted_in_asynchronous_flows(self, gateway, credentials, account, store):
        given = {"credentials": credentials, "spending": day_ceiling(0.05)}

        @flow
        async def draw():
            await agenerate_image("one", **given)
            with pytest.raises(errors.BudgetExceededError, match="max_usd_per_day"):
                await agenerate_image("two", **given)

        await draw()
        assert len(gateway.ledger.billed) == 1

    @pytest.mark.parametrize("address", ["", "nowhere"])
    def test_without_a_store_nothing_is_spent(self, gateway, credentials, monkeypatch, address):
        monkeypatch.setenv(STORE, address)

        @flow
        def draw():
            with pytest.raises(errors.InvalidRequestError, match=STORE):
                generate_image("a fox", credentials=credentials, spending=day_ceiling(1))

        draw()
        assert gateway.ledger.calls == []

    def test_a_redis_that_stops_in_between_spends_nothing_and_loses_nothing(
        self, gateway, credentials, own_redis, monkeypatch
    ):
        patient = generate_image.with_options(retries=1, **ONCE)
        with own_redis() as url:
            monkeypatch.setenv(STORE, url)

            @flow
            def draw():
                given = {"credentials": credentials, "spending": day_ceiling(1)}
                first = patient("one", **given)
                stop(url)
                with pytest.raises(errors.N1nError, match="was not reached") as caught:
                    patient("two", **given)
                assert (caught.value.is_transient, caught.value.charged) == (True, "no")
                assert patient("one", **given).sha256 == first.sha256  # paid: needs no budget

            draw()
        assert [call.prompt_excerpt for call in gateway.ledger.calls] == ["one"]
