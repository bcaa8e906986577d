"""What a batch came to: its tables, statistics and sheet, and the state that its run ends in."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed
from pydantic.dataclasses import dataclass as value

from n1n_prefect import assets, errors, events
from n1n_prefect.batch.parts import all_results
from n1n_prefect.batch.plan import Plan, read_chunk
from n1n_prefect.batch.reasons import Reason, kind_of_reason
from n1n_prefect.batch.results import ItemResult
from n1n_prefect.batch.rounds import Rounds
from n1n_prefect.batch.statistics import NAME as STATS
from n1n_prefect.batch.statistics import Statistics
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.batch.tables import Tables, write_tables
from n1n_prefect.contact_sheet import contact_sheet_markdown
from n1n_prefect.errors import N1nError
from n1n_prefect.images import ImageOutcome
from n1n_prefect.outcomes import has_image
from n1n_prefect.run_log import get_logger
from n1n_prefect.totals import image_of

_SHOWN_FAILURES, _SHOWN_IMAGES, _SHOWN_OF_A_REASON = 12, 24, 3


@value(frozen=True)
class BatchReport:
    """What a batch came to, in this and earlier runs of it."""

    batch_id: str
    """The batch."""

    items: int
    """How many items it has."""

    by_status: dict[str, int]
    """How many of them ended how, most frequent first."""

    estimated_cost_usd: float
    """What its images cost, in US dollars, as far as known; before the first call, what they will cost."""

    bad_rows: int = 0
    """How many rows of the manifest were left out."""

    results: str = ""
    """Address of the table of results in JSON Lines; empty after a dry run."""

    results_parquet: str = ""
    """Address of the same in Parquet; empty where PyArrow is missing."""

    stats: str = ""
    """Address of the statistics."""

    stopped: str = ""
    """Why items are left; empty if none is, or none was to be carried out."""

    is_dry_run: bool = False
    """Whether nothing was to be carried out."""

    def __str__(self) -> str:
        """A few lines: how its items ended, what they cost, and where the tables are."""
        counts = ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in self.by_status.items())
        if self.is_dry_run:
            left_out = f"; bad rows left out: {self.bad_rows:,}" if self.bad_rows else ""
            begun = "not begun" if {*self.by_status} <= {"pending"} else "begun already"
            return f"Batch {self.batch_id}, {begun}: {counts}{left_out}; about ${self.estimated_cost_usd:,.2f}"
        left_out = f"; bad rows left out: {self.bad_rows:,}" if self.bad_rows else ""
        where = [f"  {line}" for line in (self.stopped, self.results, self.results_parquet, self.stats) if line]
        return "\n".join((f"Batch {self.batch_id}: {counts}{left_out}; ${self.estimated_cost_usd:,.2f} in all", *where))

    @property
    def left(self) -> int:
        """How many items were not carried out."""
        return self.by_status.get("pending", 0) + self.by_status.get("over_budget", 0)


@dataclass
class _Sample:
    """Results to show: failures first, and images from all over the batch."""

    failures: dict[Reason, list[ImageOutcome]] = field(default_factory=dict[Reason, list[ImageOutcome]])
    """A few for each reason, so that a frequent one hides no other."""

    images: list[ImageOutcome] = field(default_factory=list[ImageOutcome])
    _step: int = 1
    _seen: int = 0

    def add(self, outcome: ImageOutcome) -> None:
        """Takes a result into the sample, or not; the images kept stay evenly spread, whatever their number."""
        if not has_image(outcome):
            if outcome.status != "pending":
                self._add_failure(outcome)
            return
        if self._seen % self._step == 0:
            self.images.append(outcome)
            if len(self.images) == 2 * _SHOWN_IMAGES:
                self.images, self._step = self.images[::2], self._step * 2
        self._seen += 1

    def _add_failure(self, outcome: ImageOutcome) -> None:
        reason = Reason(outcome.status, kind_of_reason(outcome.reason, outcome.id))
        if reason in self.failures or len(self.failures) < _SHOWN_FAILURES:
            known = self.failures.setdefault(reason, [])
            if len(known) < _SHOWN_OF_A_REASON:
                known.append(outcome)

    def shown(self) -> list[ImageOutcome]:
        """At most so many that they can be looked at: of the failures one for each reason, then another for each."""
        in_turn = [outcome for some in zip_longest(*self.failures.values()) for outcome in some if outcome]
        failures = in_turn[:_SHOWN_FAILURES]
        left = _SHOWN_IMAGES - sum(image_of(outcome) is not None for outcome in failures)
        return failures + self.images[:: -(-len(self.images) // left) or 1]


def write_report(store: BatchStore, plan: Plan, rounds: Rounds) -> tuple[BatchReport, str]:
    """Writes the tables and statistics of a batch, shows them on the run's page, and sums them up, also in words.

    Raises:
        UploadError: They cannot be written; what was made is safe, and another run of the batch writes them.
    """
    statistics = Statistics(
        plan.batch_id,
        plan.manifest,
        bad_rows=plan.bad_rows,
        expected_usd=plan.estimate.usd,
        has_repeats=plan.repeated > 0,
    )
    sample = _Sample()
    results = all_results(store, plan.chunks, items_of=lambda number: read_chunk(store, number))
    tables = write_tables(store, _watched(results, statistics, sample), carried=plan.carried)
    store.write(STATS, statistics.dumped())
    _show(statistics, sample, tables, plan.batch_id)
    report = BatchReport(
        plan.batch_id,
        items=statistics.total.items,
        by_status=dict(statistics.statuses.most_common()),
        estimated_cost_usd=round(statistics.total.spent_usd, 6),
        bad_rows=plan.bad_rows,
        results=tables.jsonl,
        results_parquet=tables.parquet,
        stats=store.uri_of(STATS),
        stopped=rounds.stopped or next(iter(rounds.failures.values()), ""),
    )
    _tell(report, statistics)
    return report, " ".join((str(statistics), *_most_frequent(statistics)))


def _most_frequent(statistics: Statistics) -> Iterator[str]:
    """Why most items failed, if any did."""
    for reason in statistics.reasons.top(1):
        of = f"{reason['count']:,} of {statistics.total.items:,}" if reason["count"] > 1 else "One"
        yield f"{of} {reason['status'].replace('_', ' ')}: {reason['reason']}"


def _watched(results: Iterable[ItemResult], statistics: Statistics, sample: _Sample) -> Iterator[ItemResult]:
    for result in results:
        statistics.add(result)
        sample.add(result.outcome)
        yield result


def _show(statistics: Statistics, sample: _Sample, tables: Tables, batch_id: str) -> None:
    sheet = contact_sheet_markdown(sample.shown(), title="Some of its images, failures first", show_totals=False)
    where = "\n".join(f"- `{uri}`" for uri in (tables.jsonl, tables.parquet) if uri)
    show(batch_id, f"{statistics.markdown()}\nThe whole table:\n\n{where}\n\n{sheet}", str(statistics))


def show(batch_id: str, markdown: str, description: str) -> None:
    """Puts a page about the batch on the run's page; what cannot be shown is said in the log."""
    try:
        create_markdown_artifact(markdown, key=artifact_key(batch_id), description=description)
    except Exception as exc:  # noqa: BLE001 - the batch is as good without
        get_logger().warning("The batch's page was not shown: %s", exc)


def artifact_key(batch_id: str, what: Literal["", "-progress"] = "") -> str:
    """The key of a batch's artifacts, by which the server keeps their versions together."""
    return "batch-" + re.sub("[^a-z0-9]+", "-", batch_id.lower()).strip("-") + what


def _tell(report: BatchReport, statistics: Statistics) -> None:
    """Labels for searches, and one event for automations."""
    facts: dict[str, Any] = {
        "items": report.items,
        "left": report.left,
        "failed": report.items - report.left - sum(report.by_status.get(name, 0) for name in _ARRIVED),
        "estimated_cost_usd": report.estimated_cost_usd,
        "possible_duplicates": statistics.total.possible_duplicates,
    }
    for uri in filter(None, (report.results, report.results_parquet)):
        assets.emit_table(uri, facts)
    events.emit_batch(
        "finished",
        report.batch_id,
        {**facts, "results": report.results, "stats": report.stats, "stopped": report.stopped[:300]},
    )
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    try:
        with get_client(sync_client=True) as client:
            labels = {"n1n.batch": report.batch_id, **{f"n1n.{name}": fact for name, fact in facts.items()}}
            client.update_flow_run_labels(context.flow_run.id, labels)
    except Exception:  # noqa: BLE001 - the batch is as good without
        get_logger().debug("The flow run got no labels.", exc_info=True)


_ARRIVED = ("uploaded", "already_there")


def final_state(report: BatchReport, rounds: Rounds, words: str) -> Any:
    """The state that the flow ends in: completed once no item is left, whatever became of each.

    Failed when items are left, named `OverBudget` where a ceiling is why, or when no image came at all.
    """
    again = f" To go on without paying again, run batch {report.batch_id!r} once more."
    if report.left or rounds.unfinished:
        chunks = "1 chunk was" if rounds.unfinished == 1 else f"{rounds.unfinished:,} chunks were"
        left = f"{report.left:,} are left." if report.left else f"{chunks} not carried out."
        message = f"{words} {left} {report.stopped}{again}"
        if rounds.stopped_by == "BudgetExceededError":
            return Failed(name="OverBudget", message=message, data=errors.BudgetExceededError(message))
        return Failed(message=message, data=N1nError(message))
    if report.items and not any(report.by_status.get(name) for name in _ARRIVED):
        message = f"{words} No image arrived.{_anew(report)}"
        return Failed(message=message, data=N1nError(message))
    return Completed(message=words + _anew(report), data=report)


def _anew(report: BatchReport) -> str:
    """How those without an image get one, if there are any."""
    if not any(report.by_status.get(name) for name in ("refused", "no_image", "invalid", "unknown_outcome")):
        return ""
    return " What was refused or is not good is drawn anew, and paid, with only_failed (--only-failed)."
