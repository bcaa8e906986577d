"""Chunks handed out and taken in: how many at a time, what of the ceiling each gets, and when it stops."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from n1n_prefect import budget, stopping
from n1n_prefect.batch import rounds as rounds_module
from n1n_prefect.batch.chunk import ChunkReport
from n1n_prefect.batch.rounds import Purse, Rounds, seed
from n1n_prefect.batch.tally import Tally
from n1n_prefect.budget import Allowance


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(rounds_module, "_LOOK_SECONDS", 0.0)
    yield
    stopping.forget()


def report(number: int, *, spent: float = 0.0, stopped_by: str = "", stopped: str = "", **counts: int) -> ChunkReport:
    return ChunkReport(
        number,
        counts or {"uploaded": 10},
        counts.get("pending", 0) + counts.get("over_budget", 0),
        cost_usd=spent,
        spent_usd=spent,
        stopped=stopped or (stopped_by and f"{stopped_by} of {budget._OF_A_PART}"),
        stopped_by=stopped_by,
    )


@dataclass
class Crew:
    """Carries out chunks as a test says, one look later."""

    does: Callable[[int, "Allowance | None"], Any] = lambda number, allowance: report(number)
    begun: list[int] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    under_way: int = 0
    most: int = 0

    def start(self, number: int, allowance: "Allowance | None") -> Any:
        self.begun.append(number)
        self.shares.append(allowance.usd if allowance else 0.0)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        return Handed(self, number, allowance)


@dataclass
class Handed:
    crew: Crew
    number: int
    allowance: "Allowance | None"
    looks: int = 0

    def is_done(self) -> bool:
        self.looks += 1
        return self.looks > 1

    def report(self) -> ChunkReport:
        self.crew.under_way -= 1
        result = self.crew.does(self.number, self.allowance)
        if isinstance(result, Exception):
            raise result
        return result


def carried_out(crew: Crew, chunks: int, *, at_once: int = 2, purse: "Purse | None" = None) -> Rounds:
    rounds = Rounds(crew.start, Tally(), at_once, purse)
    rounds.run([(number, 10) for number in range(chunks)], lambda: None)
    return rounds


class TestRun:
    def test_each_chunk_once_and_so_many_at_a_time(self):
        crew = Crew()
        rounds = carried_out(crew, 7, at_once=3)
        assert sorted(crew.begun) == list(range(7))
        assert crew.most == 3
        assert rounds.tally.sums()[0] == {"uploaded": 70}
        assert (rounds.stopped, rounds.failures) == ("", {})

    def test_nothing_to_do(self):
        assert carried_out(Crew(), 0).stopped == ""

    def test_a_chunk_that_ended_the_batch_ends_it(self):
        crew = Crew(lambda number, _: report(number, stopped_by="QuotaError", stopped="The balance is used up."))
        rounds = carried_out(crew, 9, at_once=2)
        assert len(crew.begun) == 2, "those that were under way, and no other"
        assert (rounds.stopped, rounds.stopped_by) == ("The balance is used up.", "QuotaError")

    def test_one_that_failed_hides_no_other(self):
        crew = Crew(lambda number, _: OSError("no disk") if number == 1 else report(number))
        rounds = carried_out(crew, 5)
        assert rounds.failures == {1: "OSError: no disk"}
        assert rounds.tally.sums()[0] == {"uploaded": 40}
        assert rounds.stopped == ""

    def test_three_in_a_row_end_it(self):
        crew = Crew(lambda number, _: OSError("no disk"))
        rounds = carried_out(crew, 9, at_once=1)
        assert len(crew.begun) == 3
        assert rounds.stopped == "3 chunks in a row could not be carried out: OSError: no disk"

    def test_one_that_cannot_be_handed_out_hides_no_other_and_costs_nothing(self):
        crew = Crew()

        def start(number, share):
            if number == 1:
                raise ConnectionError("the server is away")
            return crew.start(number, share)

        rounds = Rounds(start, Tally(), 1, Purse("rounds-not-begun", 1.0, 0.05))
        rounds.run([(number, 10) for number in range(3)], lambda: None)
        assert rounds.failures == {1: "ConnectionError: the server is away"}
        assert crew.begun == [0, 2]
        assert Allowance.take("rounds-not-begun", 9.0, ceiling=1.0).usd == 1.0, "nothing is counted"

    def test_those_of_other_processes_are_not_waited_for_past_the_time_to_end(self, monkeypatch):
        monkeypatch.setattr(rounds_module, "_LATE_SECONDS", 0.0)
        monkeypatch.setattr(Handed, "is_done", lambda self: False)
        crew = Crew()
        rounds = Rounds(crew.start, Tally(), 2)
        rounds.run([(number, 10) for number in range(3)], lambda: stopping.ask(0))
        assert crew.begun == [0, 1]

    def test_a_process_that_is_to_end_hands_out_no_more(self):
        def does(number: int, _: Any) -> ChunkReport:
            stopping.ask(20)
            return report(number, pending=10, stopped="The process was told to end.")

        crew = Crew(does)
        carried_out(crew, 9, at_once=2)
        assert len(crew.begun) == 2


class TestCeiling:
    def test_each_chunk_has_a_share_and_gives_back_what_is_left(self):
        crew = Crew(lambda number, _: report(number, spent=0.4))
        rounds = carried_out(crew, 10, at_once=1, purse=Purse("rounds-1", 5.0, 0.04))
        assert crew.shares == pytest.approx([0.48] * 10)
        assert rounds.stopped == ""

    def test_what_earlier_runs_spent_counts(self):
        purse = Purse("rounds-2", 5.0, 0.04)
        seed(purse, 4.9)
        crew = Crew(lambda number, share: report(number, spent=share.usd, stopped_by="BudgetExceededError"))
        rounds = carried_out(crew, 3, at_once=1, purse=purse)
        assert sum(crew.shares) == pytest.approx(0.1)
        assert rounds.stopped_by == "BudgetExceededError"

    def test_who_needs_more_than_its_share_gets_what_is_left(self):
        shares: list[float] = []

        def does(number: int, share: Allowance) -> ChunkReport:
            shares.append(share.usd)
            if len(shares) == 1:
                return report(number, spent=0.48, stopped_by="BudgetExceededError", uploaded=6, over_budget=4)
            return report(number, spent=0.3, uploaded=10)

        rounds = carried_out(Crew(does), 1, purse=Purse("rounds-3", 5.0, 0.04))
        assert shares == pytest.approx([0.48, 4.52])
        assert rounds.stopped == ""
        assert +rounds.tally.sums()[0] == {"uploaded": 10}

    def test_who_gets_nowhere_with_all_that_is_left_ends_it(self):
        crew = Crew(lambda number, _: report(number, stopped_by="BudgetExceededError", pending=10))
        rounds = carried_out(crew, 3, at_once=1, purse=Purse("rounds-4", 0.01, 0.04))
        assert crew.begun == [0]
        assert rounds.stopped == "The next call would pass max_usd=0.01; raise it to go on."

    def test_who_gets_nowhere_waits_for_what_others_give_back(self):
        def does(number: int, share: Allowance) -> ChunkReport:
            if number == 0:  # holds on to its share for a while
                return report(number, spent=0.1)
            enough = share.usd >= 0.3
            return report(number, spent=0.3) if enough else report(number, stopped_by="BudgetExceededError", pending=10)

        crew = Crew(does)
        rounds = carried_out(crew, 2, purse=Purse("rounds-6", 0.5, 0.04))
        assert rounds.stopped == ""
        assert crew.begun[-1] == 1
        assert crew.shares[-1] == pytest.approx(0.4)

    def test_what_two_could_not_do_with_half_of_it_one_can_with_all(self):
        def does(number: int, share: Allowance) -> ChunkReport:
            over = {"stopped_by": "BudgetExceededError", "pending": 10}
            return report(number, spent=0.04) if share.usd >= 0.04 else report(number, **over)

        crew = Crew(does)
        rounds = carried_out(crew, 2, purse=Purse("rounds-7", 0.05, 0.002))
        assert crew.shares[:2] == pytest.approx([0.024, 0.024])
        assert max(crew.shares) == pytest.approx(0.05)
        assert rounds.tally.sums()[0]["uploaded"] == 10
        assert rounds.stopped_by == "BudgetExceededError"

    def test_the_account_s_day_is_another_ceiling(self):
        words = "This call would pass the account's ceiling for the day of $1.00."
        crew = Crew(lambda number, _: report(number, stopped_by="BudgetExceededError", stopped=words, pending=10))
        rounds = carried_out(crew, 3, at_once=1, purse=Purse("rounds-8", 5.0, 0.04))
        assert (crew.begun, rounds.stopped, rounds.unfinished) == ([0], words, 2)

    def test_images_that_cost_nothing_need_no_money(self):
        crew = Crew()
        rounds = carried_out(crew, 3, purse=Purse("rounds-9", 5.0, 0.0))
        assert (sorted(crew.begun), rounds.stopped, rounds.unfinished) == ([0, 1, 2], "", 0)

    def test_nothing_is_begun_with_nothing_left(self):
        purse = Purse("rounds-5", 1.0, 0.04)
        seed(purse, 1.0)
        crew = Crew()
        rounds = carried_out(crew, 3, purse=purse)
        assert crew.begun == []
        assert "max_usd=1;" in rounds.stopped
