import math
import pickle
import random
from datetime import datetime, timedelta, timezone

import pytest

from n1n_prefect.batch.durations import Durations, Period


def counted(*seconds: float) -> Durations:
    durations = Durations()
    for each in seconds:
        durations.add(each)
    return durations


class TestPercentiles:
    @pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
    def test_are_at_most_one_per_cent_off(self, share: float):
        drawn = random.Random(5)
        seconds = [drawn.lognormvariate(1.5, 1.2) for _ in range(5_000)]
        exact = sorted(seconds)[math.ceil(share * len(seconds)) - 1]
        assert counted(*seconds).percentile(share) == pytest.approx(exact, rel=0.0105, abs=0.001)

    def test_of_equal_ones_are_exact(self):
        assert counted(4.2, 4.2, 4.2).summary() == {"p50": 4.2, "p90": 4.2, "p99": 4.2, "max": 4.2}

    def test_of_none(self):
        assert Durations().summary() == {"p50": None, "p90": None, "p99": None, "max": None}

    def test_of_one(self):
        assert counted(7.0).percentile(0.01) == 7.0

    @pytest.mark.parametrize("seconds", [0.0, -0.5, 0.0004, 1e9, math.inf])
    def test_what_no_class_is_for_is_counted(self, seconds: float):
        assert counted(seconds, 1.0, 1.0).percentile(0.5) == pytest.approx(1.0, rel=0.01)

    def test_zeros(self):
        assert counted(0.0, 0.0).percentile(0.5) == 0.0


class TestMerge:
    def test_is_as_if_all_were_counted_together(self):
        one, other = counted(0.1, 5.0), counted(0.02, 900.0, 5.0)
        one.merge(other)
        assert one == counted(0.1, 5.0, 0.02, 900.0, 5.0)

    def test_with_none(self):
        one = counted(3.0)
        one.merge(Durations())
        assert one == counted(3.0)


def test_memory_is_bounded():
    drawn = random.Random(5)
    durations = counted(*(10 ** drawn.uniform(-5, 9) for _ in range(20_000)))
    assert len(durations.classes) <= 1_165


def test_travels():
    durations = counted(1.0, 2.0)
    assert pickle.loads(pickle.dumps(durations)) == durations


class TestPeriod:
    AT = datetime(2026, 11, 25, 7, 10, tzinfo=timezone.utc)

    def counted(self, *minutes: float, seconds: float = 0.0) -> Period:
        period = Period()
        for each in minutes:
            period.add(self.AT + timedelta(minutes=each), seconds)
        return period

    def test_from_the_first_begin_to_the_last_end(self):
        period = self.counted(3, 0, 1, seconds=30)
        assert (period.started, period.first_finished) == (self.AT - timedelta(seconds=30), self.AT)
        assert period.last_finished == self.AT + timedelta(minutes=3)
        assert period.wall_seconds == period.at_work_seconds == 210

    @pytest.mark.parametrize(("gap", "seconds"), [(10, 600), (11, 0), (60 * 24 * 300, 0)])
    def test_more_than_ten_minutes_without_an_item_are_a_pause(self, gap: int, seconds: int):
        assert self.counted(0, gap).at_work_seconds == seconds

    def test_of_nothing(self):
        assert (Period().wall_seconds, Period().at_work_seconds) == (0, 0)
