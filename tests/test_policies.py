import pickle
import uuid
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS, NO_CACHE, RUN_ID
from prefect.client.schemas.objects import TaskRun
from prefect.context import TaskRunContext
from prefect.results import ResultStore
from prefect.states import Completed, Failed
from prefect.task_engine import TaskRunTimeoutError

from n1n_prefect import N1nCredentials, edit_image, errors, generate_image, image_to_s3
from n1n_prefect.errors import InvalidRequestError, N1nError
from n1n_prefect.images import ImageRequest, Spending
from n1n_prefect.policies import (
    DELAYS,
    RETRIES,
    HintedDelays,
    PaidOnce,
    current_scope,
    is_last_attempt,
    known_scope,
    scope_of,
    worth_retrying,
)
from tests.examples import generated, png, uploaded

CREDENTIALS = N1nCredentials(api_key="sk-one")
DATA_URI = "data:image/png;base64,iVBORw0KGgo="


def running(a_task=generate_image, **facts):
    """The context of a task run, without a server."""
    task_run = TaskRun(task_key="generate", dynamic_key="0", **facts)
    return TaskRunContext.model_construct(task=a_task, task_run=task_run, parameters={}, result_store=ResultStore())


def asked_again(error, context):
    """What Prefect learns of a failure, in the order in which it asks: whether, and how long."""
    return worth_retrying(generate_image, context.task_run, Failed(data=error))


class TestWorthRetrying:
    @pytest.mark.parametrize("transient", [True, False])
    @pytest.mark.parametrize(
        "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, N1nError)]
    )
    def test_the_error_itself_says_so(self, kind, transient):
        error = kind("x")
        error.is_transient = transient
        assert asked_again(error, running()) is transient

    @pytest.mark.parametrize("error", [ValueError("x"), KeyError(1), RuntimeError(), OSError("x"), None, "text"])
    def test_what_is_not_ours_is_not_worth_it(self, error):
        assert not asked_again(error, running())

    def test_a_timeout_of_the_task_s_own_is(self):
        assert asked_again(TaskRunTimeoutError("Scope timed out"), running())

    def test_a_state_without_data_is_not(self):
        assert not worth_retrying(generate_image, running().task_run, Failed(message="crash"))
        assert not worth_retrying(generate_image, running().task_run, Completed())

    def test_is_a_plain_function(self):
        # Prefect up to 3.8 takes any other callable for "never", silently.
        import inspect

        assert inspect.isfunction(generate_image.retry_condition_fn)


class TestHintedDelays:
    def limited(self, seconds):
        return errors.RateLimitError("slow down", retry_after_seconds=seconds)

    @pytest.mark.parametrize("seconds", [0.3, 1, 34.4, 600])
    def test_the_server_s_wait_is_never_shortened_and_little_lengthened(self, seconds):
        waits = []
        for _ in range(50):
            with running() as context:
                assert asked_again(self.limited(seconds), context)
                waits.append(HintedDelays([1])[0])
        assert all(seconds <= wait <= seconds + min(seconds * 0.1, 5) for wait in waits)
        assert len(set(waits)) > 1

    def test_a_hint_holds_once(self):
        with running() as context:
            asked_again(self.limited(34), context)
            delays = HintedDelays([2, 8])
            assert delays[0] >= 34
            assert (delays[0], delays[1], delays[-1]) == (2, 8, 8)

    def test_the_last_hint_counts(self):
        with running() as context:
            asked_again(self.limited(34), context)
            asked_again(self.limited(3), context)
            assert 3 <= HintedDelays([2])[0] < 4

    def test_a_hint_is_for_its_own_run(self):
        mine, other = running(), running()
        asked_again(self.limited(34), mine)
        with other:
            assert HintedDelays([2])[0] == 2
        with mine:
            assert HintedDelays([2])[0] >= 34

    @pytest.mark.parametrize("seconds", [None, 0])
    def test_no_hint_is_the_plain_delay(self, seconds):
        with running() as context:
            asked_again(self.limited(seconds), context)
            assert HintedDelays([2, 8])[1] == 8

    def test_a_final_error_leaves_no_hint_behind(self):
        error = self.limited(34)
        error.is_transient = False
        with running() as context:
            assert not asked_again(error, context)
            assert HintedDelays([2])[0] == 2

    def test_outside_of_a_run_it_is_a_list(self):
        delays = HintedDelays(DELAYS)
        assert delays == list(DELAYS)
        assert (delays[1:], delays[-1], len(delays)) == (list(DELAYS[1:]), DELAYS[-1], 4)

    def test_beyond_its_end_it_is_an_index_error_as_of_any_list(self):
        with running(), pytest.raises(IndexError):
            HintedDelays([2])[1]

    @pytest.mark.parametrize("through", [pickle, cloudpickle])
    def test_survives_its_way_to_a_worker(self, through):
        delays = through.loads(through.dumps(HintedDelays([2, 8])))
        assert isinstance(delays, HintedDelays)
        with running() as context:
            asked_again(self.limited(34), context)
            assert delays[0] >= 34

    def test_survives_other_options_of_the_task(self):
        changed = generate_image.with_options(retries=2, name="mine")
        assert (changed.retries, type(changed.retry_delay_seconds)) == (2, HintedDelays)
        assert type(cloudpickle.loads(cloudpickle.dumps(changed)).retry_delay_seconds) is HintedDelays

    def test_can_be_given_as_the_task_s_own(self):
        assert (
            type(generate_image.with_options(retry_delay_seconds=HintedDelays([1])).retry_delay_seconds) is HintedDelays
        )


class TestIsLastAttempt:
    @pytest.mark.parametrize(("run_count", "last"), [(1, False), (RETRIES, False), (RETRIES + 1, True), (99, True)])
    def test_after_so_many_runs(self, run_count, last):
        with running(run_count=run_count):
            assert is_last_attempt() is last

    def test_without_retries_the_first_is_the_last(self):
        with running(generate_image.with_options(retries=0), run_count=1):
            assert is_last_attempt()

    def test_outside_of_a_run_nobody_tries_again(self):
        assert is_last_attempt()


# ── what is known before the body runs ───────────────────────────────────────


def key_of(policy=None, context=None, /, **inputs):
    given = {"prompt": "a fox", "credentials": CREDENTIALS, **inputs}
    return (policy or PaidOnce(scope="week-46")).compute_key(context, given, {})


class TestPaidOnce:
    def test_a_key_in_a_named_scope(self):
        assert key_of() == key_of()
        assert key_of().startswith("n1n-")

    @pytest.mark.parametrize(
        "other",
        [
            {"prompt": "a wolf"},
            {"prompt": "a fox "},
            {"model": "gemini-3-pro-image"},
            {"aspect_ratio": "16:9"},
            {"sample": 1},
            {"seed": 0},
            {"extra_body": {"a": 1}},
            {"images": (png(),)},
            {"credentials": N1nCredentials(api_key="sk-one", account="other")},
            {"credentials": N1nCredentials(api_key="sk-one", base_url="https://other.example")},
        ],
        ids=str,
    )
    def test_another_request_has_another_key(self, other):
        assert key_of(**other) != key_of()

    @pytest.mark.parametrize(
        "same",
        [
            {"credentials": N1nCredentials(api_key="sk-rotated", timeout_seconds=7, max_in_flight=1)},
            {"credentials": N1nCredentials(api_key="sk-one", base_url="https://API.n1n.ai/v1beta/")},
            {"spending": Spending("fail")},
            {"prompt": ImageRequest("a fox")},
            {"stream": True},
            {"source": object()},
            {"sample": 0, "model": "gemini-2.5-flash-image", "seed": None},
        ],
        ids=str,
    )
    def test_what_changes_no_answer_changes_no_key(self, same):
        assert key_of(**same) == key_of()

    def test_scopes_do_not_share(self):
        assert key_of(PaidOnce(scope="week-46")) != key_of(PaidOnce(scope="week-47"))

    @pytest.mark.parametrize(
        "image", [png(), DATA_URI, generated(), uploaded()], ids=["bytes", "data", "image", "upload"]
    )
    def test_inputs_that_carry_their_hash_have_one(self, image):
        assert key_of(images=[image])
        assert key_of(images=image) == key_of(images=(image,)) == key_of(prompt=ImageRequest("a fox", (image,)))

    def test_the_same_bytes_have_the_same_key_however_they_come(self):
        data = png()
        assert (
            key_of(images=data)
            == key_of(images=generated(data))
            == key_of(images=uploaded(sha256=generated(data).sha256))
        )

    def test_order_counts(self):
        one, two = png(2, 2), png(3, 3)
        assert key_of(images=[one, two]) != key_of(images=[two, one])

    @pytest.mark.parametrize(
        "image", ["in.png", Path("in.png"), "s3://shop/in.png", "https://images.example.com/in.png"], ids=str
    )
    def test_inputs_that_must_be_read_have_none(self, image):
        assert key_of(images=[image]) is None
        assert key_of(images=[png(), image]) is None

    @pytest.mark.parametrize(
        "wrong",
        [
            {"prompt": None},
            {"prompt": ["a", "b"]},
            {"prompt": object()},
            {"credentials": None},
            {"credentials": ("api_key", "sk-one")},
            {"images": {"a": 1}},
            {"images": [None]},
            {"images": ["data:image/png;base64,%%%"]},
            {"extra_body": {"a": object()}},
            {"extra_body": {"a": float("nan")}},
            {"aspect_ratio": object()},
            {"prompt": ImageRequest("a fox", seed=1), "seed": 2},
        ],
        ids=str,
    )
    def test_nothing_makes_it_raise(self, wrong):
        assert key_of(**wrong) is None

    def test_nor_a_task_with_other_arguments(self):
        assert PaidOnce(scope="x").compute_key(running(), {"request": "a fox", "credentials": CREDENTIALS}, {}) is None
        assert PaidOnce(scope="x").compute_key(None, {}, None) is None

    def test_the_scope_can_be_given_alone(self):
        assert PaidOnce("week-46") == PaidOnce(scope="week-46")

    @pytest.mark.parametrize("scope", ["", "  ", None, 46])
    def test_a_scope_is_a_name(self, scope):
        with pytest.raises(InvalidRequestError, match="scope"):
            PaidOnce(scope)

    def test_is_the_policy_of_the_tasks_that_pay(self):
        assert generate_image.cache_policy == edit_image.cache_policy == PaidOnce()
        assert image_to_s3.cache_policy is NO_CACHE or image_to_s3.cache_policy == NO_CACHE

    def test_keeps_its_scope_where_it_is_configured_or_pickled(self, tmp_path):
        policy = PaidOnce("week-46").configure(key_storage=tmp_path)
        assert (policy.scope, policy.key_storage) == ("week-46", tmp_path)
        assert cloudpickle.loads(cloudpickle.dumps(policy)) == policy


class TestScope:
    RUN = uuid.uuid4()

    @pytest.mark.parametrize(
        ("policy", "scope"),
        [
            (PaidOnce(), "run"),
            (PaidOnce("week-46"), "week-46"),
            (PaidOnce("week-46") + INPUTS, "week-46"),
            (INPUTS + RUN_ID + PaidOnce("week-46"), "week-46"),
            (NO_CACHE, "run"),
            (INPUTS, "run"),
            (None, "run"),
        ],
        ids=str,
    )
    def test_is_what_the_task_s_policy_names(self, policy, scope):
        assert scope_of(policy) == scope

    def test_a_name_holds_everywhere(self):
        assert known_scope("week-46", None) == known_scope("week-46", running(flow_run_id=self.RUN)) == "name:week-46"

    def test_a_name_cannot_be_taken_for_a_run(self):
        assert known_scope(f"run:{self.RUN}", None) != f"run:{self.RUN}"

    def test_outside_of_a_flow_it_is_the_task_s_own(self):
        one, two = running(), running()
        assert known_scope("run", one) == known_scope("run", one) != known_scope("run", two)

    def test_outside_of_any_run_nothing_is_shared(self):
        assert known_scope("run", None) is None
        assert current_scope() != current_scope()

    def test_a_run_that_may_be_a_subflow_is_not_guessed(self):
        assert known_scope("run", running(flow_run_id=self.RUN)) is None

    def test_a_task_s_name_reaches_the_body(self):
        with running(generate_image.with_options(cache_policy=PaidOnce("week-46")), flow_run_id=self.RUN):
            assert current_scope() == "name:week-46"

    def test_a_task_that_holds_another_s_place_has_its_own_policy(self):
        @task(cache_policy=NO_CACHE)
        def mine():
            """A user's own task."""

        with running(mine):
            assert current_scope().startswith("task:")


def test_the_shortcut_and_the_journal_agree_on_the_key():
    from n1n_prefect.sources import load_request

    image = png()
    loaded = load_request(ImageRequest("a fox", (image,)))
    where = SimpleNamespace(base_url=CREDENTIALS.base_url, account=CREDENTIALS.account)
    journal = loaded.key(base_url=where.base_url, account=where.account, scope="name:week-46")
    assert key_of(images=[image]) == f"n1n-{journal}"


# ── what Prefect must go on doing ────────────────────────────────────────────


class Watched(HintedDelays):
    """Delays that note when they are asked for."""

    def __getitem__(self, index):
        asked.append("how long")
        return super().__getitem__(index)


def watched(task, task_run, state):
    """A retry condition that notes when it is asked."""
    asked.append("whether")
    return worth_retrying(task, task_run, state)


asked = []
WATCHED = {"retries": 1, "retry_condition_fn": watched, "retry_delay_seconds": Watched([0.01])}


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestTheContractWithPrefect:
    """The hint rests on this order; it is held here on every supported version."""

    @pytest.fixture(autouse=True)
    def fresh(self):
        asked.clear()

    def limited(self, attempts):
        attempts.append(1)
        if len(attempts) == 1:
            raise errors.RateLimitError("slow down", retry_after_seconds=0.02)

    def test_of_threads(self):
        flow(lambda: task(self.limited, **WATCHED).submit([]).wait(), name="limited")()
        assert asked == ["whether", "how long"]

    async def test_of_coroutines(self):
        async def limited(attempts):
            self.limited(attempts)

        async def run():
            await task(limited, **WATCHED)([])

        await flow(run)()
        assert asked == ["whether", "how long"]

    def test_a_subflow_s_scope_is_that_of_the_flow_at_the_top(self):
        @task
        def scope():
            return current_scope()

        @flow
        def inner():
            return scope()

        @flow
        def middle():
            return scope(), inner()

        @flow
        def outer():
            return scope(), *middle()

        scopes = outer()
        assert len(scopes) == 3
        assert len(set(scopes)) == 1
