"""One chunk of a batch: a Prefect task run that carries out its items on threads and keeps what came of each.

Threads and no event loop: an image takes a third less CPU on them (see `tests/benchmarks/`), and one that waits
for a reply costs little. They are daemons, so that a process which must end does not wait for replies.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from contextvars import copy_context
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import PurePosixPath

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from n1n_prefect import events, stopping
from n1n_prefect.batch.items import Item
from n1n_prefect.batch.lease import BATCH, Lease, held, here, of_chunk
from n1n_prefect.batch.parts import read_part, write_part
from n1n_prefect.batch.plan import read_chunk
from n1n_prefect.batch.results import ItemResult, digest_of, is_same_image
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.batch.tally import tally_of
from n1n_prefect.batch.terms import Terms
from n1n_prefect.batch.work import Places, Stops, Worker
from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.budget import Allowance, Chunk
from n1n_prefect.errors import N1nError, cut
from n1n_prefect.flights import InFlight
from n1n_prefect.images import OutcomeStatus
from n1n_prefect.pace import Pace
from n1n_prefect.policies import HintedDelays, scoped, worth_retrying
from n1n_prefect.pools import pace_of
from n1n_prefect.run_log import get_logger

NOT_TRIED: tuple[OutcomeStatus, ...] = ("pending", "over_budget")
"""Nothing has come of items that ended so, and the batch is not done."""

_TRIED_AGAIN = ("failed", "source_error")  # by each run of the batch: what was paid is found in the journal
_DRAWN_ANEW = ("refused", "no_image", "invalid")  # asked for again, the journal would only repeat itself
_FIRST_FAILURES = 3
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class ChunkReport:
    """What a chunk came to, small enough to be a task's result."""

    number: int
    """The chunk's number, from 0."""

    by_status: dict[str, int]
    """How many of its items ended how, in whatever run of the batch."""

    left: int
    """How many of its items the next run of the batch carries out: not tried, or failed with nothing lost."""

    cost_usd: float
    """What its images cost in all runs of the batch, in US dollars, as far as known."""

    digest: str = ""
    """Which plan's chunk it was, as the plan has it."""

    spent_usd: float = 0.0
    """What was counted against the allowance of this run."""

    fresh: int = 0
    """How many of its items ended in this run."""

    seconds: float = 0.0
    """How long this run worked on it."""

    stopped: str = ""
    """Why it ended before its last item; empty if it did not."""

    stopped_by: str = ""
    """The class of the error that ended it, such as `QuotaError`; empty where the process was told to end."""

    worker: str = ""
    """Host and process that carried it out."""

    @property
    def items(self) -> int:
        """How many items it has."""
        return sum(self.by_status.values())


REPORT: TypeAdapter[ChunkReport] = TypeAdapter(ChunkReport)


@task(
    name="chunk",
    task_run_name="chunk {number:05}",
    cache_policy=NO_CACHE,
    retries=4,
    retry_delay_seconds=HintedDelays([2, 8, 30, 60]),
    retry_condition_fn=worth_retrying,
)
def carry_out_chunk(
    number: int,
    digest: str,
    *,
    terms: Terms,
    credentials: N1nCredentials,
    destination: S3Location,
    source: S3Location | None = None,
    allowance: Allowance | None = None,
) -> ChunkReport:
    """What one chunk of a batch came to: its items are carried out, but for those that are done.

    Args:
        number: The chunk's number in the plan.
        digest: What the plan says of it.
        terms: What is the same for all items.
        credentials: Who pays.
        destination: Where images and the batch's documents go.
        source: Where `s3://` input images are read from.
        allowance: What this chunk may spend of the batch's ceiling, if it has one.

    Raises:
        UploadError: The plan cannot be read, or what came of the items cannot be kept.
    """
    places = Places.of(terms, credentials=credentials, destination=destination, source=source)
    lease = Lease(places.store, of_chunk(number), listens_to=BATCH, leaves_trace=True)
    with held(lease, f"chunk {number:05} of batch {terms.batch_id!r}", waits=True):
        return _under_lease(number, digest, places, terms, allowance, lease)


def _under_lease(
    number: int, digest: str, places: Places, terms: Terms, allowance: Allowance | None, lease: Lease
) -> ChunkReport:
    began = time.monotonic()
    items = read_chunk(places.store, number, digest)
    earlier = read_part(places.store, number) or ()
    stands, to_do, to_finish = _split(items, earlier, terms)
    for result in stands.values():
        tally_of(terms.batch_id).add(number, result, is_fresh=False)
    most = max(20, 2 * places.credentials.max_in_flight)
    stops = Stops(most_in_a_row=most, ended=lambda: lease.reason)
    worker = Worker(terms, places, get_logger(), stops, to_finish)
    with scoped(f"batch:{terms.batch_id}"), allowance.counted() if allowance else nullcontext() as counted:
        lost = _Lost(counted if lease.follows_lost else None, {*_paid(earlier)})
        results = stands | _carried_out(number, to_do, worker, lost)
    if lease.is_lost:
        raise N1nError(f"{lease.reason} What came of chunk {number:05} here is in the journal.")
    ordered = [results[item.id] for item in items]
    write_part(places.store, number, ordered)
    report = replace(
        report_of(number, items, ordered),
        digest=digest,
        spent_usd=counted.spent_usd if counted else 0.0,
        fresh=sum(results[item.id].outcome.status != "pending" for item in to_do),
        seconds=round(time.monotonic() - began, 3),
        worker=here(),
        **_why_stopped(worker.stops),
    )
    places.store.write(report_name(number), REPORT.dump_json(report))
    _tell(report, ordered, terms, worker.stops)
    return report


# ── which items ──────────────────────────────────────────────────────────────


def _split(
    items: Iterable[Item], earlier: Iterable[ItemResult], terms: Terms
) -> tuple[dict[str, ItemResult], list[Item], dict[str, ItemResult]]:
    """The results that stand, by id; the items to carry out, each with the number of its next drawing; and what is
    known of those of them whose image is paid for and good, and that lack only what comes after.
    """
    known = {result.id: result for result in earlier}
    stands: dict[str, ItemResult] = {}
    to_do: list[Item] = []
    to_finish: dict[str, ItemResult] = {}
    for item in items:
        result = known.get(item.id) or ItemResult.pending(item)
        asked = digest_of(item)
        is_same = is_same_image(result.asked, asked)
        is_wanted = result.outcome.status in terms.redo if terms.redo else not is_same or _is_left(result)
        has_other_beside = is_same and result.asked != asked and not terms.redo
        finishes = is_same and _is_to_finish(result, is_wanted=is_wanted, has_other_beside=has_other_beside)
        if finishes:
            to_finish[item.id] = replace(result, line=item.line, carried=item.carried)
        if finishes or is_wanted:
            to_do.append(_drawn_next(item, result, terms) if is_same else item)
        else:
            kept = asked if has_other_beside else result.asked
            stands[item.id] = replace(result, line=item.line, carried=item.carried, asked=kept)
    return stands, to_do, to_finish


def _is_to_finish(result: ItemResult, *, is_wanted: bool, has_other_beside: bool) -> bool:
    """Whether the image is good, and an upload or what lies beside it is missing; nothing is paid for that."""
    outcome = result.outcome
    if outcome.image is None:
        return False
    return outcome.status == "failed" if is_wanted else has_other_beside and outcome.ok


def _is_left(result: ItemResult) -> bool:
    """Whether every run of the batch carries this out: nothing was paid for it, or the image that was is at hand."""
    outcome = result.outcome
    is_safe = outcome.charged == "no" or outcome.image is not None
    return outcome.status in NOT_TRIED or (outcome.status in _TRIED_AGAIN and is_safe)


def _is_left_of(item: Item, result: ItemResult) -> bool:
    """Whether the next run has something to do about an item, also where a repair let an older result stand."""
    return _is_left(result) or result.asked != digest_of(item)


def _drawn_next(item: Item, result: ItemResult, terms: Terms) -> Item:
    """The item past all drawings that were given up, so that the journal does not repeat what is known."""
    outcome = result.outcome
    if outcome.status not in _DRAWN_ANEW:
        is_lost = outcome.status == "unknown_outcome"
        retries = outcome.possible_duplicates + max(terms.spending.unknown_retries, 1) if is_lost else None
        return replace(item, take=result.take, given_up_usd=result.given_up_usd, unknown_retries=retries)
    looks_again = outcome.status == "invalid"
    found = outcome.image.estimated_cost_usd if looks_again and outcome.image else None
    return replace(
        item,
        take=result.take + terms.takes,
        looks_again=looks_again,
        given_up_usd=max(round((outcome.estimated_cost_usd or 0.0) - (found or 0.0), 6), 0.0),
    )


def is_done(report: ChunkReport, terms: Terms) -> bool:
    """Whether a chunk has nothing left to do."""
    if terms.redo:
        return not any(report.by_status.get(status) for status in terms.redo)
    return report.left == 0


# ── carrying them out ────────────────────────────────────────────────────────


def _carried_out(number: int, items: list[Item], worker: Worker, lost: "_Lost") -> dict[str, ItemResult]:
    """The results by id; those of items that have not ended when the process must are pending."""
    waiting, results = deque(items), dict[str, ItemResult]()
    tally = tally_of(worker.terms.batch_id)
    ended = threading.Semaphore(0)
    room = _room(worker.places.credentials)

    def work() -> None:
        while waiting:
            with room.slot():
                take()

    def take() -> None:
        try:
            item = waiting.popleft()
        except IndexError:
            return
        try:
            results[item.id] = worker.result_of(item)
            lost.count(results[item.id])
            tally.add(number, results[item.id])
        except BaseException as exc:  # noqa: BLE001 - a defect of ours must not leave the chunk waiting
            results[item.id] = worker.broken(item, exc)
        finally:
            ended.release()

    for _ in range(min(room.limit, len(items))):
        threading.Thread(target=copy_context().run, args=(work,), name="n1n-item", daemon=True).start()
    for _ in items:
        while not ended.acquire(timeout=_LOOK_SECONDS):
            if stopping.seconds_left() <= 0:
                waiting.clear()
                return {item.id: results.get(item.id) or ItemResult.pending(item, _CUT_OFF) for item in items}
    return results


_lock = threading.Lock()
_rooms: dict[Pace, InFlight] = {}


def _room(credentials: N1nCredentials) -> InFlight:
    """The bound on items at once, over all chunks in this process: each may hold its image.

    A quarter more than calls at once, so that calls go on while other images are checked and uploaded.
    """
    pace = pace_of(credentials)
    with _lock:
        return _rooms.setdefault(pace, InFlight(pace.most + pace.most // 4))


@plain_dataclass
class _Lost:
    """Counts what an attempt at the chunk has paid for that was killed, or failed, before it could tell."""

    counted: Chunk | None
    """Where; None if there is no ceiling, or no such attempt."""

    known: set[str]
    """The request keys of images that are counted already."""

    def count(self, result: ItemResult) -> None:
        """Counts an image that was found in the journal."""
        image = result.outcome.image
        if self.counted is None or image is None or image.request_key in self.known:
            return
        self.known.add(image.request_key)
        if image.reused:
            self.counted.add(image.estimated_cost_usd or 0.0)


def _paid(results: Iterable[ItemResult]) -> Iterator[str]:
    return (result.outcome.image.request_key for result in results if result.outcome.image)


_CUT_OFF = "The process had to end while this was under way; whether it was paid is in the journal."


# ── telling of it ────────────────────────────────────────────────────────────


_REPORTS = "_batch/reports"


def report_name(number: int) -> str:
    """The name of a chunk's report in the batch's folder."""
    return f"{_REPORTS}/{number:05}.json"


def reported_chunks(store: BatchStore) -> list[int]:
    """The numbers of the chunks that have a report, in order."""
    found = (PurePosixPath(name) for name in store.names(_REPORTS))
    return [int(path.stem) for path in found if path.stem.isdecimal()]


def report_if_any(store: BatchStore, number: int) -> ChunkReport | None:
    """What a chunk came to when it was last carried out; None if it was not, or that cannot be understood."""
    data = store.read(report_name(number))
    try:
        return None if data is None else REPORT.validate_json(data)
    except ValidationError:
        return None


def report_of(number: int, items: Iterable[Item], results: Iterable[ItemResult]) -> ChunkReport:
    """The sums over a chunk's items and their results."""
    counts: Counter[str] = Counter()
    left, cost = 0, 0.0
    seen: set[str] = set()
    for item, result in zip(items, results, strict=True):
        image = result.outcome.image
        counts[result.outcome.status] += 1
        left += _is_left_of(item, result)
        if image is None or image.request_key not in seen:  # equal rows share an image
            cost += result.outcome.estimated_cost_usd or 0.0
        seen.add(image.request_key if image else "")
    return ChunkReport(number, dict(counts.most_common()), left, round(cost, 6))


def _why_stopped(stops: Stops) -> dict[str, str]:
    if stops.error is not None:
        return {"stopped": stops.error.reason, "stopped_by": type(stops.error).__name__}
    return {"stopped": "The process was told to end." if stopping.is_asked() else stops.ended()}


def _tell(report: ChunkReport, results: Iterable[ItemResult], terms: Terms, stops: Stops) -> None:
    """One event for the chunk, and one for the error that ends the batch, which automations wait for."""
    if stops.error is not None:
        events.emit("failed", error=stops.error, model=stops.error.model)
    failures = [result for result in results if not result.outcome.ok and result.outcome.status not in NOT_TRIED]
    first = [
        {"id": cut(result.id, 64), "status": result.outcome.status, "reason": cut(result.outcome.reason, 200)}
        for result in failures[:_FIRST_FAILURES]
    ]
    events.emit_batch("chunk", terms.batch_id, {**REPORT.dump_python(report), "first_failures": first})
