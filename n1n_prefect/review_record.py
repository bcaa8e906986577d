"""What Prefect keeps of a review: the question and its answer, among the inputs of the flow run.

Each time it is asked has a number, and so keys of its own: Prefect reuses no key that was
fired, and forgets some of them when a run is started again.
"""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.exceptions import Abort, PrefectHTTPStatusError
from prefect.input import keyset_from_paused_state
from prefect.states import Paused, Running, Suspended
from pydantic import ValidationError

from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.review_deadlines import EXPIRED
from n1n_prefect.reviews import Question, Review, WaitBy
from n1n_prefect.run_log import get_logger

# A run that is scheduled gets these names while it waits for a worker or for a free slot.
_STILL_SCHEDULED = ("Late", "AwaitingConcurrencySlot")
_GRACE = timedelta(minutes=5)  # a process that is alive acts at the deadline, before the server fails the run


@dataclass(frozen=True)
class ReviewRecord:
    """A question's place among the inputs of its flow run: each asking has a number, and so keys of its own."""

    client: SyncPrefectClient
    flow_run: FlowRun
    question: Question
    prefix: str

    @property
    def key(self) -> str:
        """What the keys of this question begin with."""
        return f"{self.prefix}-{self.question.digest}"

    def numbered(self) -> "ReviewRecord":
        """The record of the question with numbers that no other of the run has, the same in every process."""
        kept = self._read(f"{self.key}-numbers")
        if kept is None:
            inputs = self.client.filter_flow_run_input(self.flow_run.id, self.prefix, limit=200, exclude_keys=set())
            taken = [json.loads(each.value) for each in inputs if each.key.endswith("-numbers")]
            first = 1 + max((last for _, last in taken), default=0)
            kept = [first, first + len(self.question.outcomes) - 1]
            self._write(f"{self.key}-numbers", kept)
        return replace(self, question=replace(self.question, first=kept[0]))

    def decision(self) -> Review | None:
        """What a person answered, however often it was asked."""
        return next((said for said in self._answers() if isinstance(said, Review)), None)

    def _answers(self) -> Generator[Review | str]:
        """What came of each asking: a decision, or why it is none; nothing where there was no answer."""
        for keyset in self._askings():
            answer = self._read(keyset["response"])
            if answer is None:
                continue
            try:
                yield self.question.decided(answer)
            except ValidationError as exc:  # of another release, with other fields
                yield f"The answer does not fit: {exc.errors(include_url=False)[0]['msg']}."
            except ValueError as exc:
                yield str(exc)

    def was_answered(self) -> bool:
        """Whether a person answered, be it a decision or not."""
        return next(self._answers(), None) is not None

    def ask(self, wait: WaitBy, deadline: datetime, *, show_prompts: bool) -> State[Any]:
        """Makes the run one that waits, with a dialog of its own."""
        number = sum(1 for _ in self._askings())
        objection = ([*self._answers()] or ["There was no answer last time."])[-1] if number else ""
        if objection:
            get_logger().warning("Asked again. %s", objection)
        self._write(f"{self.key}-asked-{number}", wait)
        state = self._waiting(wait, number, deadline)
        answer = self.client.set_flow_run_state(self.flow_run.id, state)
        if answer.status != SetStateStatus.ACCEPT and not self._waits_under(state.state_details.pause_key):
            why = getattr(answer.details, "reason", None) or "no reason is given"
            raise InvalidRequestError(f"Prefect does not let this run wait for a decision: {why}")
        # After the state: Prefect forgets what is under these keys when the run begins to wait.
        keyset = _keyset_of(state)
        self._write(keyset["schema"], self.question.form.model_json_schema())
        description = self.question.description(deadline, objection=str(objection), show_prompts=show_prompts)
        self._write(keyset["description"], description)
        return answer.state or state

    def _waits_under(self, pause_key: str | None) -> bool:
        """Whether the run waits as asked: the first of two sendings was accepted, and its answer lost."""
        state = self.state()
        return state is not None and state.is_paused() and state.state_details.pause_key == pause_key

    def _waiting(self, wait: WaitBy, number: int, deadline: datetime) -> State[Any]:
        key = f"{self.key}-{number}"
        if wait == "suspend":
            state = Suspended(pause_key=key, pause_expiration_time=deadline)
        else:
            state = Paused(pause_key=key, pause_expiration_time=deadline + _GRACE)
        state.state_details.run_input_keyset = _keyset_of(state)
        return state

    def _askings(self) -> Generator[Mapping[str, str]]:
        """The keys of each time that it was asked."""
        for number in count():
            wait = self._read(f"{self.key}-asked-{number}")
            if wait is None:
                return
            yield _keyset_of(self._waiting(wait, number, datetime.now(timezone.utc)))

    def take_back(self) -> Review | None:
        """Ends the waiting at the deadline; the decision, where a person was quicker."""
        running = Running(message="Nobody decided in time.")
        answer = self.client.set_flow_run_state(self.flow_run.id, running)
        review = self.decision()
        state = self.state()
        if review is None and (state is None or not state.is_running()):
            if state and state.type in (StateType.CANCELLED, StateType.CANCELLING):
                raise Abort(f"The run is {state.name} and waits for no decision any more.")
            # The machine was asleep, or its clock is late: the server has failed the run already.
            get_logger().debug("Taken back by force: %s", answer.details)
            self.client.set_flow_run_state(self.flow_run.id, running, force=True)
        return review

    def state(self) -> "State[Any] | None":
        """The run's state now."""
        return self.client.read_flow_run(self.flow_run.id).state

    def deadline(self) -> datetime | None:
        """Until when an answer was asked for."""
        kept = self._read(f"{self.key}-deadline")
        return datetime.fromisoformat(kept) if kept else None

    def set_deadline(self, deadline: datetime) -> datetime:
        """Keeps the deadline, for this process and for later ones."""
        self._write(f"{self.key}-deadline", deadline.isoformat())
        return deadline

    def forget_deadline(self) -> None:
        """Lets the next question have a deadline of its own."""
        try:
            self.client.delete_flow_run_input(self.flow_run.id, f"{self.key}-deadline")
        except PrefectHTTPStatusError as exc:
            # Prefect's client sends again what was not answered, and the first time may have done it.
            if exc.response.status_code != 404:
                raise

    def was_started_by_automation(self) -> bool:
        """Whether an automation, and no person, started the run this time."""
        states = self.client.read_flow_run_states(self.flow_run.id)
        scheduled = [state for state in states if state.is_scheduled() and state.name not in _STILL_SCHEDULED]
        return bool(scheduled) and max(scheduled, key=lambda state: state.timestamp).name == EXPIRED

    def once(self, what: str) -> bool:
        """Whether this is the first time, in whichever process."""
        if self._read(f"{self.key}-{what}") is not None:
            return False
        self._write(f"{self.key}-{what}", True)
        return True

    def _read(self, key: str) -> Any:
        try:
            return json.loads(self.client.read_flow_run_input(self.flow_run.id, key))
        except PrefectHTTPStatusError as exc:
            if exc.response.status_code != 404:
                raise
            return None

    def _write(self, key: str, value: Any) -> None:
        text = json.dumps(value)
        try:
            self.client.create_flow_run_input(self.flow_run.id, key, text)
        except PrefectHTTPStatusError as exc:
            # Prefect's client sends again what was not answered, though the first time may have been kept.
            if exc.response.status_code != 409 or self._read(key) != json.loads(text):
                raise


@contextmanager
def outlasting_failures() -> Generator[None]:
    """Leaves the block where the API has a failure that may be over at the next look, and says so."""
    try:
        yield
    except (httpx.TransportError, PrefectHTTPStatusError) as exc:
        if isinstance(exc, PrefectHTTPStatusError) and not _may_pass(exc.response.status_code):
            raise
        get_logger().warning("The Prefect API gave no answer (%s); still waiting.", exc)


def _may_pass(status: int) -> bool:
    return status in (408, 429) or status >= 500


def _keyset_of(state: State[Any]) -> dict[str, str]:
    return {str(what): key for what, key in keyset_from_paused_state(state).items()}
