import threading
import uuid

import pytest

from n1n_prefect import errors
from n1n_prefect.budget import reserve
from n1n_prefect.images import ImageRequest, Spending
from n1n_prefect.paid_call import PaidCall
from n1n_prefect.sources import LoadedRequest
from n1n_prefect.steps import Reserve, Write, run


@pytest.fixture
def scope():
    return f"run:{uuid.uuid4()}"


class TestReserve:
    def test_up_to_the_ceiling_inclusive(self, scope):
        for _ in range(10):
            reserve(scope, 0.1, 1.0)
        with pytest.raises(errors.BudgetExceededError):
            reserve(scope, 0.0001, 1.0)

    def test_the_call_that_would_pass_it_is_not_counted(self, scope):
        reserve(scope, 0.6, 1.0)
        with pytest.raises(errors.BudgetExceededError):
            reserve(scope, 0.6, 1.0)
        reserve(scope, 0.4, 1.0)

    def test_what_was_given_back_can_be_spent(self, scope):
        reserve(scope, 1.0, 1.0)
        reserve(scope, -1.0, 1.0)
        reserve(scope, 1.0, 1.0)

    def test_giving_back_is_never_refused(self, scope):
        reserve(scope, 1.0, 1.0)
        reserve(scope, -0.5, 0.0)

    def test_runs_have_budgets_of_their_own(self, scope):
        reserve(scope, 1.0, 1.0)
        reserve(f"{scope}-other", 1.0, 1.0)

    def test_a_ceiling_of_nothing_lets_nothing_through(self, scope):
        with pytest.raises(errors.BudgetExceededError):
            reserve(scope, 0.039, 0.0)

    def test_the_error_says_the_figures_and_what_to_do(self, scope):
        reserve(scope, 0.9, 1.0)
        with pytest.raises(errors.BudgetExceededError, match=r"\$0\.2000 .* \$1\.00 \(\$0\.9000 spent\)") as caught:
            reserve(scope, 0.2, 1.0)
        assert "max_usd_per_run" in str(caught.value)
        assert (caught.value.charged, caught.value.is_transient) == ("no", False)

    def test_threads_together_do_not_pass_it(self, scope):
        gate, let_through = threading.Barrier(16), []

        def spend():
            gate.wait()
            for _ in range(20):
                try:
                    reserve(scope, 0.01, 1.0)
                except errors.BudgetExceededError:
                    return
                let_through.append(1)

        threads = [threading.Thread(target=spend) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(let_through) == 100


class TestInThePaidCall:
    """What the sequence reserves, and gives back where nothing was charged."""

    def reserved(self, fail_at, error):
        amounts = []

        def do(step):
            if isinstance(step, Reserve):
                amounts.append(step.usd)
            if isinstance(step, fail_at):
                raise error

        call = PaidCall(LoadedRequest(ImageRequest("a red fox")), "0" * 64, Spending(max_usd_per_run=1))
        with pytest.raises(type(error)):
            run(call.steps(), do)
        return amounts

    def test_a_journal_that_could_not_be_written_costs_nothing(self):
        first, back = self.reserved(Write, errors.StagingError("disk full"))
        assert first == -back > 0

    def test_a_call_over_the_ceiling_leaves_no_trace(self):
        assert len(self.reserved(Reserve, errors.BudgetExceededError("too much"))) == 1
