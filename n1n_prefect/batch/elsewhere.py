"""Chunks as runs of a deployment, carried out by whatever workers its work pool has."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Crashed

from n1n_prefect import stopping
from n1n_prefect.batch.chunk import ChunkReport, report_if_any, report_name
from n1n_prefect.batch.draining import is_cancelled
from n1n_prefect.batch.lease import STALE_SECONDS, of_chunk
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.batch.terms import TERMS, Terms
from n1n_prefect.budget import Allowance
from n1n_prefect.errors import InvalidRequestError, N1nError
from n1n_prefect.run_log import get_logger
from n1n_prefect.saved import near

FLOW = "batch-chunk"
NOBODY_SECONDS = 60.0
"""How long all runs may wait for a worker before that is told."""

_TRIES = 3  # of a chunk whose worker is lost
_ASK_SECONDS = 2.0  # between two questions to the server, about all runs at once
_LOST_SECONDS = 3 * STALE_SECONDS
_TOLD_EVERY_SECONDS = 600.0
_PARAMETERS = {"number", "digest", "terms", "credentials", "destination", "source", "allowance"}


# ── which deployment ─────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Deployment:
    """A deployment of `batch_chunk`, with the blocks that its runs get; see `deployment_of`."""

    id: UUID
    name: str
    """As `flow-name/deployment-name`."""

    work_pool: str
    """Empty where a process of its own serves it."""

    work_queue: str
    references: dict[str, Any] = field(repr=False)
    """The blocks by parameter, as references that the run's own process resolves."""


def deployment_of(name: str, blocks: dict[str, Any]) -> Deployment:
    """The deployment of a name, and what its runs get.

    Args:
        name: `flow-name/deployment-name`.
        blocks: The flow's own blocks by parameter; they travel by reference, and so must be saved.

    Raises:
        InvalidRequestError: There is no such deployment, it is of another flow, or a block is not saved; nothing was
            spent.
    """
    references = {parameter: _reference(parameter, block) for parameter, block in blocks.items() if block is not None}
    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(name)
        except (ObjectNotFound, ValueError):
            raise InvalidRequestError(_missing(client, name)) from None
    schema = found.parameter_openapi_schema or {}
    if _PARAMETERS - set(schema.get("properties", {})):
        raise InvalidRequestError(
            f"deployment={name!r} is of another flow than n1n_prefect.batch.batch_chunk, or of an older release of it; "
            "deploy that one. Nothing was spent."
        )
    return Deployment(found.id, name, found.work_pool_name or "", found.work_queue_name or "", references)


def _missing(client: SyncPrefectClient, name: str) -> str:
    there = client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])))
    names = sorted(f"{FLOW}/{deployment.name}" for deployment in there)
    meant = near(name, names)
    hint = f" Did you mean {meant!r}?" if meant else f" There are: {', '.join(names)}." if names else ""
    return (
        f"deployment={name!r:.200}: there is none of this name at {client.api_url}.{hint} It is written as "
        f"{FLOW}/NAME, and made with `prefect deploy n1n_prefect.batch.batch_chunk --name NAME --pool POOL`. Nothing "
        "was spent."
    )


def _reference(name: str, block: Any) -> dict[str, Any]:
    document_id = getattr(block, "_block_document_id", None)
    if document_id is None:
        raise InvalidRequestError(
            f"{name} is not a saved block, and only a saved one travels to another worker without its secrets: save it "
            f"under a name, and give {type(block).__name__}.load('NAME'). Nothing was spent."
        )
    return {"$ref": {"block_document_id": str(document_id)}}


# ── its runs ─────────────────────────────────────────────────────────────────


@dataclass
class ChunkRun:
    """A chunk that was handed out; when its worker is lost, it is again."""

    runs: "ChunkRuns"
    number: int
    parameters: dict[str, Any] = field(repr=False)
    tries: int = 0
    id: UUID | None = None
    state: State[Any] | None = None

    def begin(self) -> None:
        """Creates its flow run, or the next one.

        An allowance is kept from one to the next: what the one before has paid for is counted when it is found.
        """
        terms = self.runs.terms
        run: Any = run_deployment(
            self.runs.deployment.id,
            parameters=self.parameters,
            timeout=0,
            flow_run_name=f"{terms.batch_id} {self.number:05}",
        )
        self.tries, self.id, self.state = self.tries + 1, run.id, None

    def is_done(self) -> bool:
        """Whether it has ended for good."""
        self.runs.look()
        if self.state is None or not self.state.is_final():
            return False
        if self.state.is_crashed() and self.tries < _TRIES and not stopping.is_asked():
            get_logger().warning(
                "Chunk %05d is handed out again: flow run %s has crashed. %s", self.number, self.id, self.state.message
            )
            return not self._is_begun_again()
        return True

    def _is_begun_again(self) -> bool:
        try:
            self.begin()
        except Exception as exc:  # noqa: BLE001 - then it has ended as it did
            get_logger().warning("Chunk %05d cannot be handed out again: %s: %s", self.number, type(exc).__name__, exc)
            return False
        self.runs._under_way.append(self)
        return True

    def report(self) -> ChunkReport:
        """What it came to.

        Raises:
            N1nError: Its run has not completed, or has left no report.
        """
        if self.state is None or not self.state.is_completed():
            name, message = (self.state.name, self.state.message) if self.state else ("unknown", "")
            raise N1nError(f"The flow run {self.id} that carried it out is {name}: {message}")
        store = self.runs.store
        report = report_if_any(store, self.number)
        if report is None:
            raise N1nError(f"Chunk {self.number} left no report at {store.uri_of(report_name(self.number))}.")
        return report


@dataclass
class ChunkRuns:
    """The runs of a deployment that carry out a batch's chunks.

    Args:
        deployment: Of which they are runs.
        terms: What is the same for all items.
        digests: What the plan says of each chunk.
        store: The batch's documents, where each run leaves its report.
    """

    deployment: Deployment
    terms: Terms
    digests: Sequence[str]
    store: BatchStore
    _under_way: list[ChunkRun] = field(default_factory=list[ChunkRun])
    _asked: float = 0.0
    _idle_since: float = field(default_factory=time.monotonic)
    _is_reached: bool = True
    _has_passed_on: bool = False

    def start(self, number: int, allowance: Allowance | None) -> ChunkRun:
        """Hands out a chunk.

        Raises:
            Exception: Prefect's, where the run could not be created.
        """
        parameters = {
            "number": number,
            "digest": self.digests[number],
            "terms": TERMS.dump_python(self.terms, mode="json"),
            "allowance": allowance and dataclasses.asdict(allowance),
            **self.deployment.references,
        }
        run = ChunkRun(self, number, parameters)
        run.begin()
        self._under_way.append(run)
        return run

    def look(self) -> None:
        """Asks the server about all runs, if it is time to; a server that is away is asked again later."""
        now = time.monotonic()
        if now < self._asked + _ASK_SECONDS:
            return
        self._asked = now
        try:
            with get_client(sync_client=True) as client:
                self._hear(client)
            self._is_reached = True
        except Exception as exc:  # noqa: BLE001 - the chunks go on without it
            if self._is_reached:
                get_logger().warning("The Prefect API does not tell of the chunks' runs (%s); asking on.", exc)
            self._is_reached = False

    def _hear(self, client: SyncPrefectClient) -> None:
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in self._under_way if run.id]))
        states = {found.id: found.state for found in client.read_flow_runs(flow_run_filter=wanted)}
        for run in self._under_way:
            run.state = (run.id and states.get(run.id)) or Crashed(message="It was deleted.")
            if run.id and run.state.is_running() and self._is_lost(run.number):
                run.state = Crashed(message="Its worker has given no sign of life for minutes.")
                client.set_flow_run_state(run.id, run.state, force=True)
        if stopping.is_asked() and not self._has_passed_on:
            self._has_passed_on = True
            if is_cancelled():
                self._pass_on(client)
        self._tell_if_nobody_works()
        self._under_way = [run for run in self._under_way if run.state is None or not run.state.is_final()]

    def _is_lost(self, number: int) -> bool:
        age = self.store.age(of_chunk(number))
        return age is not None and age > _LOST_SECONDS

    def _pass_on(self, client: SyncPrefectClient) -> None:
        """Cancels the chunks of a run that was cancelled; one that has to end for another reason lets them go on."""
        for run in self._under_way:
            if run.id and run.state and not run.state.is_final():
                client.set_flow_run_state(run.id, Cancelling(message="The batch was cancelled."))

    def _tell_if_nobody_works(self) -> None:
        states = [run.state for run in self._under_way if run.state is not None]
        now = time.monotonic()
        if not all(state.is_scheduled() or state.is_pending() for state in states):
            self._idle_since = now
        elif now >= self._idle_since + NOBODY_SECONDS:
            get_logger().warning("%s", self._nobody_in_words(len(states)))
            self._idle_since = now + _TOLD_EVERY_SECONDS

    def _nobody_in_words(self, waiting: int) -> str:
        pool, queue = self.deployment.work_pool, self.deployment.work_queue
        chunks = f"{waiting} {'chunk waits' if waiting == 1 else 'chunks wait'}"
        if not pool:
            return f"{chunks}, and no process that serves {self.deployment.name!r} takes them up; is one running?"
        where = f"work pool {pool!r}, queue {queue!r}," if queue else f"work pool {pool!r}"
        return (
            f"{chunks}, and no worker of {where} takes them up. Start one with `prefect worker start --pool {pool}`, "
            "or see whether it is paused or at its limit."
        )
