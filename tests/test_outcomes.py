import asyncio
import uuid
from collections import OrderedDict
from dataclasses import replace

import pytest
from prefect import flow, task
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.futures import PrefectTaskRunFuture, PrefectWrappedFuture
from prefect.results import ResultStore
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running, State

from n1n_prefect import errors, outcomes
from n1n_prefect.errors import ImageValidationError, N1nError, RefusedError, Violation
from n1n_prefect.images import ImageOutcome
from n1n_prefect.outcomes import final_state, gather_outcomes, is_under_way, outcome_of, remember_failure
from tests.examples import KEY, generated, uploaded

IMAGE = generated(prompt_excerpt="A red fox")

# What each class of error is in a report; everything else has simply failed.
STATUSES = {
    "RefusedError": "refused",
    "NoImageError": "no_image",
    "ImageValidationError": "invalid",
    "OutcomeUnknownError": "unknown_outcome",
    "SourceError": "source_error",
    "BudgetExceededError": "over_budget",
}
CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, N1nError)]


def failed(kind=RefusedError, message="The prompt was refused (SAFETY).", **facts):
    error = kind(message, "req-1")
    for name, value in facts.items():
        setattr(error, name, value)
    return error


class TestOutcomeOf:
    def test_an_upload(self):
        found = outcome_of(uploaded(original=IMAGE))
        assert (found.status, found.reason, found.charged, found.estimated_cost_usd) == ("uploaded", "", "yes", 0.039)
        assert (found.id, found.image, found.uploaded) == (KEY[:12], IMAGE, uploaded(original=IMAGE))
        assert (found.model, found.prompt_excerpt) == (IMAGE.model, "A red fox")
        assert found.ok

    def test_an_upload_that_was_there_already(self):
        assert outcome_of(uploaded(created=False)).status == "already_there"

    def test_an_upload_whose_original_nobody_knows(self):
        found = outcome_of(uploaded(model="m"))
        assert (found.status, found.image, found.estimated_cost_usd, found.model) == ("uploaded", None, 0.039, "m")

    def test_an_image_that_nobody_uploaded_yet(self):
        found = outcome_of(IMAGE)
        assert (found.status, found.image, found.charged, found.ok) == ("pending", IMAGE, "yes", False)

    def test_an_outcome_is_one_already(self):
        outcome = ImageOutcome("sku-1", "refused", "no")
        assert outcome_of(outcome, "other") is outcome

    @pytest.mark.parametrize("kind", CLASSES)
    def test_an_error_of_each_class(self, kind):
        found = outcome_of(failed(kind))
        assert found.status == STATUSES.get(kind.__name__, "failed")
        assert found.reason == "The prompt was refused (SAFETY). (request id: req-1)"
        assert found.charged == kind("x").charged

    def test_what_it_cost_stands_beside_the_reason_and_not_in_it(self):
        error = failed(charge="It may have been charged.")
        assert "charged" in str(error)
        assert outcome_of(error).reason == "The prompt was refused (SAFETY). (request id: req-1)"

    @pytest.mark.parametrize("charged", ["no", "yes", "unknown"])
    def test_what_it_cost_is_the_error_s_own_word(self, charged):
        assert outcome_of(failed(charged=charged)).charged == charged

    def test_an_error_after_the_image_was_paid_keeps_the_image(self):
        found = outcome_of(failed(ImageValidationError, image=IMAGE))
        assert (found.status, found.image, found.charged, found.estimated_cost_usd) == ("invalid", IMAGE, "yes", 0.039)

    def test_something_odd_in_the_image_s_place_is_left_out(self):
        assert outcome_of(failed(image="fox.png")).image is None

    @pytest.mark.parametrize("error", [ValueError("boom"), KeyError("x"), asyncio.CancelledError(), "text", None])
    def test_anything_else_is_a_failure_in_words(self, error):
        found = outcome_of(error)
        assert found.status == "failed"
        assert type(error).__name__ in found.reason

    def test_a_long_story_is_cut(self):
        assert len(outcome_of(ValueError("x" * 10_000)).reason) <= 500

    def test_a_free_failure_does_not_make_an_earlier_lost_call_free(self):
        found = outcome_of(failed(errors.RateLimitError, possible_duplicates=1))
        assert (found.charged, found.possible_duplicates) == ("unknown", 1)
        assert outcome_of(failed(errors.RateLimitError)).charged == "no"

    def test_an_image_after_a_lost_call_says_so(self):
        assert outcome_of(uploaded(original=replace(IMAGE, possible_duplicates=2))).possible_duplicates == 2

    def test_id_by_name_then_key(self):
        assert outcome_of(IMAGE, "sku-1").id == "sku-1"
        assert outcome_of(failed(request_key=KEY)).id == KEY[:12]
        assert outcome_of(failed(request_key=KEY), "sku-1").id == "sku-1"

    def test_attempts_are_those_given(self):
        assert [outcome_of(x, attempts=3).attempts for x in (IMAGE, uploaded(), failed(), ValueError())] == [3] * 4


# ── futures ──────────────────────────────────────────────────────────────────


class Ended(PrefectTaskRunFuture):
    """A future that has ended in a state."""

    def __init__(self, state: State) -> None:
        super().__init__(uuid.uuid4())
        self._final_state = state

    def wait(self, timeout=None):
        """It has ended."""

    def result(self, timeout=None, raise_on_failure=True):
        return self.state.result(raise_on_failure, _sync=True)

    def add_done_callback(self, fn):
        fn(self)


def not_ready(task_run_id):
    return Pending(name="NotReady", message=f"Upstream task run '{task_run_id}' did not reach a 'COMPLETED' state.")


def only(state):
    (outcome,) = gather_outcomes([Ended(state)])
    return outcome


def remember(error):
    """Remembers a failure as the task run of an id that is returned."""
    task_run = TaskRun(task_key="generate", dynamic_key="0")
    with TaskRunContext.model_construct(task=None, task_run=task_run, parameters={}, result_store=ResultStore()):
        remember_failure(error)
    return task_run.id


class TestGatherOutcomes:
    def test_of_nothing(self):
        assert gather_outcomes([]) == []

    def test_results_and_exceptions_as_gather_gives_them(self):
        found = gather_outcomes([uploaded(), failed(), ValueError("x"), IMAGE, ImageOutcome("sku-1", "refused")])
        assert [outcome.status for outcome in found] == ["uploaded", "refused", "failed", "pending", "refused"]

    def test_what_has_no_name_has_its_number(self):
        found = gather_outcomes([ValueError("x"), uploaded(), failed(), Ended(Failed(message="boom")), None])
        assert [outcome.id for outcome in found] == ["1", KEY[:12], "3", "4", "5"]

    def test_a_completed_task(self):
        assert only(Completed(data=uploaded())).status == "uploaded"

    async def test_a_completed_task_in_asynchronous_code(self):
        assert only(Completed(data=uploaded())).status == "uploaded"

    def test_a_completed_task_whose_result_was_not_kept(self):
        found = only(Completed())
        assert found.status == "failed"
        assert "MissingResult" in found.reason

    def test_a_failed_task_has_its_own_error(self):
        error = failed(ImageValidationError, image=IMAGE)
        assert only(Failed(data=error)) == outcome_of(error)

    def test_a_crashed_or_cancelled_one_says_so(self):
        assert only(Crashed(message="Execution was aborted.")).reason == "Execution was aborted."
        assert only(Cancelled()).reason == "Cancelled"
        assert only(Crashed(data=RuntimeError("gone"))).reason == "RuntimeError: gone"

    @pytest.mark.parametrize("state", [Running(), Pending()])
    def test_one_that_has_not_ended_is_pending(self, state):
        found = only(state)
        assert (found.status, found.id, found.charged) == ("pending", "1", "no")

    def test_one_on_ray_is_under_way_until_its_state_can_be_had(self):
        class OnRay(PrefectWrappedFuture):
            """As prefect-ray's: what it wraps is a reference, which is asked through Ray."""

            ended = None

            def wait(self, timeout=None):
                assert timeout == 0, "or it would be waited for"
                self._final_state = self.ended

            def result(self, timeout=None, raise_on_failure=True):
                raise AssertionError

        future = OnRay(uuid.uuid4(), object())
        assert is_under_way(future)
        future.ended = Completed()
        assert not is_under_way(future)

    def test_one_that_did_not_run_has_the_earlier_one_s_reason(self):
        error = failed(request_key=KEY)
        found = only(not_ready(remember(error)))
        assert found == outcome_of(error)

    def test_the_wording_is_that_of_prefect(self):
        from prefect.exceptions import UpstreamTaskError
        from prefect.utilities.engine import resolve_to_final_result

        state = Failed(message="boom")
        state.state_details.task_run_id = uuid.uuid4()
        future = Ended(state)
        future._task_run_id = state.state_details.task_run_id
        with pytest.raises(UpstreamTaskError) as caught:
            resolve_to_final_result(future, {})
        found = outcomes._UPSTREAM.search(str(caught.value))
        assert found
        assert uuid.UUID(found[1]) == future.task_run_id

    def test_of_a_failure_that_only_words_are_left_of(self):
        found = only(Failed(message="Task run encountered an exception RefusedError: The prompt was refused: no."))
        assert (found.status, found.reason) == ("refused", "The prompt was refused: no.")

    @pytest.mark.parametrize(
        ("words", "charged"),
        [
            ("The prompt was refused. Not charged.", "no"),
            ("The prompt was refused. It may have been charged.", "unknown"),
            ("The prompt was refused. Charged.", "yes"),
            ("The prompt was refused. Charged; the image is kept at s3://results/n1n/a b.png", "yes"),
        ],
    )
    def test_what_a_failure_cost_is_read_from_its_words(self, words, charged):
        found = only(Failed(message=f"Task run encountered an exception RefusedError: {words}"))
        assert (found.status, found.reason, found.charged) == ("refused", "The prompt was refused.", charged)

    @pytest.mark.parametrize("name", ["ValueError", "NoSuchError", "N1nErrors", "Violation"])
    def test_words_of_another_error_stay_words(self, name):
        found = only(Failed(message=f"Task run encountered an exception {name}: boom"))
        assert (found.status, found.charged) == ("failed", "no")
        assert "boom" in found.reason

    def test_a_failed_flow_run_without_words(self):
        assert only(Failed()).reason == "Failed"


class TestFinalState:
    ARRIVED = outcome_of(uploaded(original=IMAGE))
    REFUSED = ImageOutcome("b", "refused", "The prompt was refused.")
    OVER = ImageOutcome("c", "over_budget", "This call would pass the ceiling.")

    def test_one_that_arrived_is_enough(self):
        state = final_state([self.REFUSED, self.ARRIVED])
        assert state.is_completed()
        assert state.message == "2 images: 1 refused, 1 uploaded. Estimated cost $0.04."
        assert state.data == [self.REFUSED, self.ARRIVED]

    def test_none_that_arrived_is_a_failure_with_the_first_reason(self):
        state = final_state([self.REFUSED])
        assert state.is_failed()
        assert "The first reason: The prompt was refused." in state.message

    def test_a_ceiling_has_a_name_of_its_own(self):
        state = final_state([self.ARRIVED, self.OVER])
        assert (state.name, state.is_failed()) == ("OverBudget", True)
        assert isinstance(state.data, errors.BudgetExceededError)
        assert "1 uploaded, 1 over budget" in state.message

    @pytest.mark.parametrize(
        ("others", "charged"), [((), "no"), (("no", "unknown"), "unknown"), (("unknown", "yes", "no"), "yes")]
    )
    def test_its_error_says_what_the_images_cost(self, others, charged):
        bad = [ImageOutcome("x", "failed", "It failed.", charged=said) for said in others]
        assert final_state([self.OVER, *bad]).data.charged == charged
        assert final_state(bad or [ImageOutcome("x", "failed", "no")]).data.charged == charged

    def test_nothing_was_asked(self):
        assert final_state([]).is_completed()

    def test_images_that_nobody_wanted_uploaded_have_arrived(self):
        assert final_state([outcome_of(IMAGE)]).is_completed()
        assert final_state([ImageOutcome("a", "pending", "Not finished.")]).is_failed()


class TestRememberFailure:
    def test_outside_of_a_task_nothing_is_remembered(self):
        before = dict(outcomes._failures)
        remember_failure(failed())
        assert dict(outcomes._failures) == before

    def test_the_last_of_a_task_s_failures_counts(self):
        task_run = TaskRun(task_key="generate", dynamic_key="0")
        with TaskRunContext.model_construct(task=None, task_run=task_run, parameters={}, result_store=ResultStore()):
            remember_failure(failed(errors.RateLimitError, "slow down"))
            remember_failure(failed(errors.QuotaError, "no money"))
        assert only(not_ready(task_run.id)).reason.startswith("no money")

    def test_only_so_many_are_kept(self, monkeypatch):
        monkeypatch.setattr(outcomes, "_failures", OrderedDict())
        monkeypatch.setattr(outcomes, "_REMEMBERED", 2)
        kept = [remember(failed(message=str(number))) for number in range(5)]
        assert list(outcomes._failures) == kept[-2:]


# ── through the engine ───────────────────────────────────────────────────────


@task
def draw(number):
    """Draws, or does not."""
    if number == 1:
        raise RefusedError("The prompt was refused.")
    if number == 4:
        raise SystemExit("killed")
    return generated(request_key=f"{number}{KEY}")


@task
def check(image):
    """Checks."""
    if image.request_key.startswith("3"):
        raise ImageValidationError("too small", violations=[Violation("width", "2", "1")])
    return image


@task
def put(image):
    """Uploads."""
    return uploaded(request_key=image.request_key)


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestThroughTheEngine:
    def test_a_flow_s_caller_gets_the_outcomes_or_the_error(self):
        @flow
        def ends(outcomes: list[ImageOutcome]):
            return final_state(outcomes)

        assert ends([TestFinalState.ARRIVED]) == [TestFinalState.ARRIVED]
        with pytest.raises(errors.BudgetExceededError, match="1 over budget"):
            ends([TestFinalState.OVER])

    def test_the_server_knows_what_this_process_forgot(self):
        """Tasks of a user's own remember nothing; their reasons come from the server, some seconds later."""

        @flow
        def chain():
            images = draw.map(range(5))
            return gather_outcomes(images), gather_outcomes(put.map(check.map(images)))

        drawn, found = chain()
        assert [outcome.status for outcome in drawn] == ["pending", "refused", "pending", "pending", "failed"]
        assert [outcome.status for outcome in found] == ["uploaded", "refused", "uploaded", "invalid", "failed"]
        assert (found[1].reason, found[3].reason) == ("The prompt was refused.", "too small")
        assert "SystemExit" in drawn[4].reason
        assert "SystemExit" in found[4].reason
        assert len({outcome.id for outcome in found}) == 5
