"""How each item ended: errors, results and futures of any chain, as rows of one report."""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from threading import Lock
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, TaskRunContext
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed

from n1n_prefect import errors
from n1n_prefect.errors import N1nError
from n1n_prefect.images import GeneratedImage, ImageOutcome, OutcomeStatus, UploadedImage, excerpt
from n1n_prefect.masking import without_secrets
from n1n_prefect.totals import Totals

_STATUSES: tuple[tuple[type[N1nError], OutcomeStatus], ...] = (
    (errors.RefusedError, "refused"),
    (errors.NoImageError, "no_image"),
    (errors.ImageValidationError, "invalid"),
    (errors.OutcomeUnknownError, "unknown_outcome"),
    (errors.SourceError, "source_error"),
    (errors.BudgetExceededError, "over_budget"),
)
_REMEMBERED = 10_000
_lock = Lock()
_failures: "OrderedDict[UUID, ImageOutcome]" = OrderedDict()


def gather_outcomes(futures: Iterable[Any]) -> list[ImageOutcome]:
    """How every item of a chain ended, in order; waits for all and never raises for one.

    A task that did not run because an earlier one failed gets the earlier one's reason.

    ```python
    images = generate_image.map(prompts, credentials=unmapped(credentials))
    uploads = upload_image.map(validate_image.map(images), destination=unmapped(destination))
    outcomes = gather_outcomes(uploads)
    ```

    Args:
        futures: Prefect futures of tasks that end in an image, an upload or an outcome; results
            and exceptions are taken as well, as `asyncio.gather(..., return_exceptions=True)` gives
            them, and asyncio tasks that have ended.
    """
    return [_outcome_of_future(item, str(number)) for number, item in enumerate(futures, 1)]


def is_under_way(item: object) -> bool:
    """Whether an item is a future, of Prefect's or asyncio's, that has not ended."""
    if isinstance(item, asyncio.Future):
        return not item.done()
    wrapped = getattr(item, "wrapped_future", None)
    if wrapped is None or not isinstance(item, PrefectFuture):
        return False
    if hasattr(wrapped, "done"):
        return not wrapped.done()
    item.wait(timeout=0)  # a reference of Ray's does not tell
    return item._final_state is None


def outcomes_so_far(items: Iterable[object]) -> list[ImageOutcome]:
    """`gather_outcomes` that waits for nothing: what is under way is pending."""
    return gather_outcomes(_UNDER_WAY if is_under_way(item) else item for item in items)


_UNDER_WAY = ImageOutcome("?", "pending", "Under way.")


def final_state(outcomes: Iterable[ImageOutcome]) -> Any:
    """The Prefect state in which a flow ends, for it to return: what came of its images, in words.

    Completed, with the outcomes as the flow's result, when an image arrived, uploaded or only
    generated, or when a person rejected all of them. Failed when none arrived for another reason,
    and, named `OverBudget`, when a ceiling kept calls from being made; the caller of the flow then
    gets the error. The message says how many images ended how, what they cost, and how a failed run
    goes on.

    ```python
    @flow
    def draw(prompts: list[str]):
        ...
        return final_state(gather_outcomes(uploads))
    ```

    Args:
        outcomes: How each item ended.

    Returns:
        A Prefect `State`. It is typed `Any` since who calls the flow gets the outcomes out of it.
    """
    ended = list(outcomes)
    message = str(Totals.of(ended))
    refused = next((outcome for outcome in ended if outcome.status == "over_budget"), None)
    if refused is not None:
        message = f"{message} {refused.reason} What was paid is safe.{_how_to_go_on()}"
        return Failed(
            name="OverBudget", message=message, data=errors.BudgetExceededError(message, charged=_charged_in(ended))
        )
    bad = [outcome for outcome in ended if not has_image(outcome) and outcome.status != "rejected"]
    if bad and not any(map(has_image, ended)):
        hint = _how_to_go_on() if any(outcome.status not in _REPLAYED for outcome in bad) else ""
        message = f"{message} The first reason: {bad[0].reason}{hint}"
        return Failed(message=message, data=errors.N1nError(message, charged=_charged_in(ended)))
    return Completed(message=message, data=ended)


_REPLAYED = ("refused", "no_image", "invalid")  # the same again from the journal, however often the run is started


def _charged_in(outcomes: Iterable[ImageOutcome]) -> errors.Charged:
    """Whether any of them cost something, or may have."""
    said = {outcome.charged for outcome in outcomes}
    return "yes" if "yes" in said else "unknown" if "unknown" in said else "no"


def has_image(outcome: ImageOutcome) -> bool:
    """Whether an image came of it, uploaded or only generated."""
    return outcome.ok or (outcome.status == "pending" and outcome.image is not None)


def _how_to_go_on() -> str:
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return f" To go on without paying again: n1n-prefect resume {run.id}" if run else ""


def outcome_of(result: object, id: str = "", *, attempts: int = 1) -> ImageOutcome:  # noqa: A002 - the field's name
    """The row for a result or an error.

    Args:
        result: An image, an upload, an outcome or an exception.
        id: The item's name; the start of the request's key if empty.
        attempts: How many paid calls were made for it.
    """
    match result:
        case ImageOutcome():
            return result
        case UploadedImage():
            status: OutcomeStatus = "uploaded" if result.created else "already_there"
            return _row(id, result.request_key, status, "", result.original, result, attempts)
        case GeneratedImage():
            return _row(id, result.request_key, "pending", "Generated and not uploaded.", result, None, attempts)
        case N1nError():
            return _failed(id, result, attempts)
        case _:
            # Whatever it is, it does not say whether something was paid.
            return ImageOutcome(id or "?", "failed", _words_of(result), charged="unknown", attempts=attempts)


def _words_of(result: object) -> str:
    try:
        words = str(result)
    except Exception:  # noqa: BLE001 - an error that cannot say what it is
        words = ""
    return excerpt(without_secrets(f"{type(result).__name__}: {words}"), 500)


def _row(
    id: str,  # noqa: A002
    key: str,
    status: OutcomeStatus,
    reason: str,
    image: GeneratedImage | None,
    uploaded: UploadedImage | None,
    attempts: int,
) -> ImageOutcome:
    cost = image.estimated_cost_usd if image else uploaded.estimated_cost_usd if uploaded else None
    return ImageOutcome(
        id or key[:12],
        status,
        reason,
        image,
        uploaded,
        "yes",
        cost,
        attempts,
        model=image.model if image else uploaded.model if uploaded else "",
        prompt_excerpt=image.prompt_excerpt if image else "",
        possible_duplicates=image.possible_duplicates if image else 0,
    )


def _failed(id: str, error: N1nError, attempts: int) -> ImageOutcome:  # noqa: A002
    found: list[OutcomeStatus] = [status for kind, status in _STATUSES if isinstance(error, kind)]
    status: OutcomeStatus = found[0] if found else "failed"
    image = error.image if isinstance(error.image, GeneratedImage) else None
    return ImageOutcome(
        id or (error.request_key or (image.request_key if image else ""))[:12] or "?",
        status,
        error.reason,
        image,
        charged="yes" if image else errors.charged_in_all(error),
        estimated_cost_usd=image.estimated_cost_usd if image else None,
        attempts=attempts,
        model=error.model,
        prompt_excerpt=error.prompt_excerpt,
        possible_duplicates=error.possible_duplicates or (image.possible_duplicates if image else 0),
    )


# ── futures ──────────────────────────────────────────────────────────────────


def remember_failure(error: N1nError) -> None:
    """Keeps how the task that runs now failed, for the tasks after it that will not run."""
    context = TaskRunContext.get()
    if context is None:
        return
    with _lock:
        _failures[context.task_run.id] = outcome_of(error)
        if len(_failures) > _REMEMBERED:
            _failures.popitem(last=False)


def _outcome_of_future(item: Any, id: str) -> ImageOutcome:  # noqa: A002
    outcome = _outcome_when_ended(item) if isinstance(item, PrefectFuture) else outcome_of(_settled(item))
    return outcome if outcome.id != "?" else replace(outcome, id=id)


def _settled(item: object) -> object:
    """What an ended asyncio task gave, or its error; any other item as it is."""
    if not isinstance(item, asyncio.Future) or not item.done():
        return item
    return asyncio.CancelledError("It was cancelled.") if item.cancelled() else item.exception() or item.result()


def _outcome_when_ended(future: PrefectFuture[Any]) -> ImageOutcome:
    try:
        future.wait()
    except BaseException as exc:
        # A crash of the task comes out of `wait`; an interrupt of this thread must go on.
        wrapped = getattr(future, "wrapped_future", None)
        if wrapped is None or not wrapped.done():
            raise
        # So does, from another process, that an earlier task failed.
        return _outcome_of_upstream(str(exc)) or outcome_of(exc)
    return _outcome_of_state(future.state)


def _outcome_of_state(state: State[Any]) -> ImageOutcome:
    if state.is_completed():
        return outcome_of(_result_of(state))
    if upstream := _outcome_of_upstream(state.message or ""):
        return upstream
    if not state.is_final():
        return ImageOutcome("?", "pending", f"Not finished: {state.name}.")
    error = _result_of(state) if state.data is not None else None
    if isinstance(error, N1nError) or not state.message:
        return outcome_of(error) if error else _outcome_in_words(state.name or "")
    return _outcome_in_words(state.message)


def _result_of(state: State[Any]) -> object:
    """A state's value or its error, wherever Prefect keeps it, or the error of not finding it."""
    try:
        # Without `_sync` an asynchronous flow gets a coroutine.
        return state.result(raise_on_failure=False, _sync=True)  # pyright: ignore[reportCallIssue]
    except Exception as exc:  # noqa: BLE001 - a result that cannot be loaded is a row like any other
        return exc


_UPSTREAM = re.compile(r"Upstream task run '([0-9a-f-]{36})'")
_IN_WORDS = re.compile(r"\b(\w+Error): (.*)", re.DOTALL)


def _outcome_of_upstream(message: str) -> ImageOutcome | None:
    found = _UPSTREAM.search(message)
    return _outcome_of_task_run(UUID(found[1])) if found else None


def _outcome_of_task_run(task_run_id: UUID) -> ImageOutcome:
    """The outcome of an earlier task: from this process, else from the server."""
    with _lock:
        outcome = _failures.get(task_run_id)
    if outcome is not None:
        return outcome
    state = _state_on_server(task_run_id)
    return _outcome_of_state(state) if state else ImageOutcome("?", "failed", "An earlier task failed; see its log.")


_PATIENCE_SECONDS = (0.0, 1.0, 3.0, 6.0, 10.0)


def _state_on_server(task_run_id: UUID) -> State[Any] | None:
    """The state of a task that ran in another process; the server learns of it some seconds later."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        for seconds in _PATIENCE_SECONDS:
            time.sleep(seconds)
            try:
                state = client.read_task_run(task_run_id).state
            except ObjectNotFound:
                continue
            if state and (state.is_final() or state.name == "NotReady"):
                return state
    return None


def _outcome_in_words(message: str) -> ImageOutcome:
    """The outcome of a failure that only its state's message is left of."""
    found = _IN_WORDS.search(message)
    kind = getattr(errors, found[1], None) if found else None
    if found and isinstance(kind, type) and issubclass(kind, N1nError):
        reason, charged = errors.charge_read(found[2])
        error = kind(reason)
        error.charged = charged or error.charged
        return outcome_of(error)
    return ImageOutcome("?", "failed", excerpt(message, 500))
