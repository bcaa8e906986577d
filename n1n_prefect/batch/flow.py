"""The flow that carries out a manifest: plan, chunks, tables; and the one that carries out a single chunk elsewhere."""

# Prefect types a runner of threads as another kind of runner.
# pyright: reportArgumentType=false, reportCallIssue=false, reportUntypedFunctionDecorator=false

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from uuid import uuid4

from prefect import flow
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from n1n_prefect import stopping
from n1n_prefect.batch.chunk import ChunkReport, carry_out_chunk, is_done, report_if_any, reported_chunks
from n1n_prefect.batch.draining import draining, is_cancelled
from n1n_prefect.batch.elsewhere import ChunkRuns, deployment_of
from n1n_prefect.batch.lease import BATCH, Lease, held
from n1n_prefect.batch.ownership import checked_batch_id, claim
from n1n_prefect.batch.plan import Plan, make_plan, read_plan
from n1n_prefect.batch.progress import Progress
from n1n_prefect.batch.report import BatchReport, artifact_key, final_state, show, write_report
from n1n_prefect.batch.results import COLUMNS
from n1n_prefect.batch.rounds import Purse, Rounds, Start, seed, task_runs
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.batch.tally import new_tally
from n1n_prefect.batch.terms import Terms
from n1n_prefect.batch.work import Places
from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.budget import Allowance
from n1n_prefect.catalog import AspectRatio, ImageModel, ImageSize
from n1n_prefect.derive import require_formats
from n1n_prefect.errors import InvalidRequestError, N1nError, charge_in_words
from n1n_prefect.images import OUTCOME_STATUSES, ImageSpec, OutcomeStatus, Spending
from n1n_prefect.object_keys import check_key
from n1n_prefect.plain_text import plain
from n1n_prefect.run_log import get_logger
from n1n_prefect.settings import settings
from n1n_prefect.variants import as_variants

_FAILED: tuple[OutcomeStatus, ...] = tuple(
    status for status in OUTCOME_STATUSES if status not in ("uploaded", "already_there", "rejected")
)  # pyright: ignore[reportAssignmentType]
_AT_ONCE_ELSEWHERE = 32  # chunks handed out at a time, where nobody here knows how many workers there are


@flow(name="batch-to-s3", task_runner=ThreadPoolTaskRunner(max_workers=2))
def batch_to_s3(  # noqa: PLR0917 - a form has its fields by name
    manifest: str,
    credentials: N1nCredentials,
    destination: S3Location,
    source: S3Location | None = None,
    batch_id: str = "",
    prefix: str = "",
    dry_run: bool = False,
    only_failed: bool = False,
    only_statuses: list[OutcomeStatus] = [],  # noqa: B006 - a form's default; never changed
    on_bad_rows: Literal["strict", "skip"] = "strict",
    model: ImageModel = "gemini-2.5-flash-image",
    aspect_ratio: Literal["default", AspectRatio] = "default",
    image_size: Literal["default", ImageSize] = "default",
    variants: list[str] = [],  # noqa: B006
    spec: ImageSpec | None = None,
    on_invalid: Literal["fail", "regenerate"] = "fail",
    regenerations: Annotated[int, Field(ge=0)] = 1,
    if_exists: Literal["fail", "keep", "replace"] = "fail",
    max_usd: Annotated[float, Field(ge=0)] | None = None,
    chunk_size: Annotated[int, Field(ge=1, le=5000)] = 200,
    deployment: str = "",
    check_inputs: bool = True,
    sidecars: bool = False,
    grace_seconds: Annotated[float, Field(ge=0)] = 20,
) -> BatchReport:
    """Draw or edit an image for each row of a manifest, check it, put it into S3, and write a table of what happened.

    It may be killed at any time: run again with the same batch id, it goes on, and pays only for what is missing.

    Args:
        manifest: A .csv, .jsonl or .parquet file, local or s3://, with a column prompt. Others are id, images, key,
            variants, the options of generate_image such as model and aspect_ratio, and your own, which are carried
            into the results.
        credentials: The n1n Credentials block whose key pays for the images.
        destination: The S3 Image Location block where images and results go.
        source: The S3 Image Location block through which an s3:// manifest and s3:// input images are read; the
            destination if not given.
        batch_id: The batch's name, of letters, digits, dots, hyphens and underscores; that of the manifest's file if
            empty. The same name again goes on with the batch.
        prefix: The folder of images and results below the destination's own prefix; the batch id if empty.
        dry_run: Check every row and estimate dollars and hours, and make no call. Begin with this.
        only_failed: Carry out what failed in an earlier run, and nothing else. Refused, invalid and missing images are
            asked for anew, which is paid again. What failed otherwise is tried again by every run.
        only_statuses: With only_failed, those of these statuses alone.
        on_bad_rows: Whether a row that cannot be carried out ends the batch before its first call (strict), or is left
            out (skip).
        model: The image model of rows that name none.
        aspect_ratio: Width to height of rows that name none; keep "default" to let the model choose.
        image_size: Size tier of rows that name none; keep "default" for gemini-2.5-flash-image, which has none.
        variants: What may be derived from an image, such as "thumb=crop 256x256 webp 80"; a row's column variants names
            which.
        spec: What must be true of every image, such as {"min_edge": 1000, "media_types": ["image/png"]}; what its row
            asked for, if not given.
        on_invalid: Whether an image that breaks a rule is drawn again, and paid again.
        regenerations: With regenerate, how often at most.
        if_exists: What to do about another object under an image's key: fail the item, keep that object, or replace it.
        max_usd: A ceiling in US dollars for all runs of this batch together; none, unless you give one.
        chunk_size: Rows in one task run; more rows mean less work for Prefect's server.
        deployment: The deployment of batch-chunk, as flow-name/deployment-name, whose workers carry out the chunks; in
            this process, or on the flow's task runner, if empty.
        check_inputs: Whether input images in files and in S3 are looked for before the first call.
        sidecars: Whether a document with its provenance is put beside each image.
        grace_seconds: How long images under way may take when the process is told to end.

    Raises:
        InvalidRequestError: Rows cannot be carried out; nothing was spent.
        N1nError: Items are left; the message says why. What was paid is safe.
    """
    blocks = {"credentials": credentials, "destination": destination, "source": source}
    with ExitStack() as stack:
        try:
            name = batch_id or named_after(manifest)
            terms = Terms(
                checked_batch_id(name),
                check_key(prefix.strip("/") or name),
                spec=spec,
                on_invalid=on_invalid,
                regenerations=regenerations,
                if_exists=if_exists,
                variants=as_variants(variants) if variants else (),
                redo=_redone(only_failed, only_statuses),
                sidecars=sidecars,
                spending=_spending(max_usd),
            )
            if terms.variants:
                require_formats(terms.variants)
            places = Places.of(terms, credentials=credentials, destination=destination, source=source)
            _check_earlier(places.store, terms)
            deployed = deployment_of(deployment, blocks) if deployment else None
            lease = Lease(places.store, BATCH, tells_end=deployed is None)
            if not dry_run:
                claim(places.store, terms.batch_id)
                stack.enter_context(held(lease, f"batch {terms.batch_id!r}", waits=False))
            plan = make_plan(
                manifest,
                store=places.store,
                batch_id=terms.batch_id,
                destination=places.destination,
                source=places.source,
                rules=settings().source_rules,
                defaults=_defaults(model, aspect_ratio, image_size),
                variants=terms.variants,
                sidecars=terms.sidecars,
                reserved=COLUMNS,
                credentials=credentials,
                spending=terms.spending,
                chunk_size=chunk_size,
                on_bad_rows=on_bad_rows,
                check_inputs=check_inputs,
                named_after_manifest=not batch_id,
                dry_run=dry_run,
            )
            purse = _purse(plan, terms.spending.max_usd_per_run)
        except N1nError as error:
            return _not_begun(error)
        get_logger().info("%s", plan.summary(credentials.max_in_flight))
        if dry_run:
            return _shown(plan, credentials, places.store)
        if deployed:
            start: Start = ChunkRuns(deployed, terms, plan.chunk_digests, places.store).start
        else:
            start = task_runs(terms, plan.chunk_digests, **blocks)
        stack.enter_context(draining(grace_seconds))
        rounds = _carried_out(plan, places.store, terms, start, purse, lease)
        return _reported(places.store, plan, rounds, lease)


@flow(name="batch-chunk", task_runner=ThreadPoolTaskRunner(max_workers=1))
def batch_chunk(
    number: int,
    digest: str,
    terms: Terms,
    credentials: N1nCredentials,
    destination: S3Location,
    source: S3Location | None = None,
    allowance: Allowance | None = None,
    grace_seconds: Annotated[float, Field(ge=0)] = 20,
) -> Any:
    """Carry out one chunk of a batch on this worker; started by batch-to-s3, not by hand.

    Args:
        number: The chunk's number.
        digest: What the plan says of it.
        terms: What is the same for all items of the batch.
        credentials: The n1n Credentials block whose key pays for the images.
        destination: The S3 Image Location block where images and results go.
        source: The S3 Image Location block through which s3:// input images are read.
        allowance: What the chunk may spend of the batch's ceiling.
        grace_seconds: How long images under way may take when the process is told to end.
    """
    with draining(grace_seconds):
        report = carry_out_chunk(
            number,
            digest,
            terms=terms,
            credentials=credentials,
            destination=destination,
            source=source,
            allowance=allowance,
        )
        return Cancelled(message=report.stopped) if stopping.is_asked() and is_cancelled() else report


# ── its parts ────────────────────────────────────────────────────────────────


def named_after(manifest: str) -> str:
    """A batch's name, where it has none of its own: that of the manifest's file.

    Raises:
        InvalidRequestError: The file's name has no letter or digit of ASCII, and another's may have none either.
    """
    stem = PurePosixPath(manifest.rstrip("/").replace("\\", "/")).name.split(".")[0]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100]
    if not name:
        raise InvalidRequestError(f"No batch can be called {stem!r:.120} after its manifest; name it by batch_id=.")
    return name


def _not_begun(error: N1nError) -> Any:
    """The state of a run that ended before its first call: in the error's own words, without a traceback."""
    error.charged = "no"  # also where a store refused, which elsewhere has refused a paid image
    error.charge = charge_in_words(error)
    get_logger().error("%s", error)
    return Failed(message=str(error), data=error)


def _spending(max_usd: float | None) -> Spending:
    return settings().spending if max_usd is None else replace(settings().spending, max_usd_per_run=max_usd)


def _check_earlier(store: BatchStore, terms: Terms) -> None:
    if terms.redo and read_plan(store) is None:
        raise InvalidRequestError(
            f"only_failed=True, and batch {terms.batch_id!r} has no results at {store.uri_of()} yet; run it once "
            "without, or correct batch_id and prefix."
        )


def _redone(only_failed: bool, statuses: list[OutcomeStatus]) -> tuple[OutcomeStatus, ...]:
    if statuses and not only_failed:
        raise InvalidRequestError(f"only_statuses={statuses!r} is given without only_failed=True; nothing was spent.")
    return tuple(statuses) or _FAILED if only_failed else ()


def _defaults(model: str, aspect_ratio: str, image_size: str) -> dict[str, Any]:
    return {
        "model": model,
        "aspect_ratio": None if aspect_ratio == "default" else aspect_ratio,
        "image_size": None if image_size == "default" else image_size,
    }


def _shown(plan: Plan, credentials: N1nCredentials, store: BatchStore) -> Any:
    """The state of a dry run: what the batch would be, and what of it is done already."""
    of_plan = (report for number, report in _reports(store) if number < plan.chunks)
    done = sum((Counter(report.by_status) for report in of_plan), Counter[str]())
    begun = ", ".join(f"{items:,} {status.replace('_', ' ')}" for status, items in done.most_common())
    words = plan.summary(credentials.max_in_flight)
    if begun:
        words = f"Begun already: {begun}; what was paid for is not paid again. The whole batch: {words}"
    title = "begun already" if begun else "not begun"
    show(plan.batch_id, f"## Batch {plain(plan.batch_id, 100)}, {title}\n\n{plain(words, 2000)}\n", words)
    pending = plan.items - done.total()
    report = BatchReport(
        plan.batch_id,
        items=plan.items,
        by_status=dict((done + Counter({"pending": pending} if pending > 0 else {})).most_common()),
        estimated_cost_usd=plan.estimate.usd,
        bad_rows=plan.bad_rows,
        is_dry_run=True,
    )
    return Completed(message=f"Nothing was called. {words}", data=report)


def _purse(plan: Plan, max_usd: float | None) -> Purse | None:
    if max_usd is None:
        return None
    if plan.estimate.unpriced:
        names = ", ".join(map(repr, plan.estimate.unpriced))
        raise InvalidRequestError(
            f"max_usd is given and {names} has no known price; give it one in the credentials' prices. Nothing was "
            "spent."
        )
    # A name of its own, since what earlier runs have spent is counted anew.
    return Purse(f"batch:{plan.batch_id}:{uuid4()}", max_usd, plan.estimate.usd / max(plan.items, 1))


def _carried_out(
    plan: Plan, store: BatchStore, terms: Terms, start: Start, purse: Purse | None, lease: Lease
) -> Rounds:
    tally = new_tally(terms.batch_id)
    at_once = 2 * _workers() if isinstance(_runner(), ThreadPoolTaskRunner) else _AT_ONCE_ELSEWHERE
    rounds = Rounds(start, tally, at_once, purse)
    left: dict[int, int] = {}
    reports = dict(_reports(store))
    before = _spent_before(store, plan, reports)
    if purse:
        seed(purse, before)
    for number in range(plan.chunks):
        report = reports.get(number)
        if report and report.digest != plan.chunk_digests[number]:
            report = None
        if report and is_done(report, terms):
            tally.close(number, report.by_status, report.cost_usd)
        else:
            left[number] = (report.left if report and not terms.redo else 0) or plan.items_in(number)
    progress = Progress(artifact_key(terms.batch_id, "-progress"), plan.items, tally)

    def look() -> None:
        progress.look()
        if lease.is_lost:
            rounds.stop(lease.reason, N1nError.__name__)

    rounds.run(left.items(), look)
    _keep_spent(store, max(before, purse.ceiling - purse.left() if purse else 0.0))
    progress.show()
    return rounds


_SPENT = "_batch/spent.json"


def _spent_before(store: BatchStore, plan: Plan, reports: Mapping[int, ChunkReport]) -> float:
    """US dollars that earlier runs of the batch have spent, as far as known.

    Chunks tell of the rows that the table has now, and the batch's own sum of all that it ever had.
    """
    data = store.read(_SPENT)
    try:
        known = float(json.loads(data)["usd"]) if data else None
    except (ValueError, TypeError, KeyError):
        known = None
    if known is None:  # the first run was killed
        known = sum(report.cost_usd for report in reports.values())
    return max(known, sum(report.cost_usd for number, report in reports.items() if number < plan.chunks))


def _keep_spent(store: BatchStore, usd: float) -> None:
    try:
        store.write(_SPENT, json.dumps({"usd": round(usd, 6)}).encode())
    except N1nError as error:
        get_logger().warning("What the batch has spent is counted by its rows alone: %s", error.reason)


def _reports(store: BatchStore) -> Iterator[tuple[int, ChunkReport]]:
    """What earlier runs of the batch came to, chunk by chunk, whatever the manifest was by then."""
    for number in reported_chunks(store):
        report = report_if_any(store, number)
        if report is not None:
            yield number, report


def _runner() -> Any:
    context = FlowRunContext.get()
    return context.task_runner if context else None


def _workers() -> int:
    return getattr(_runner(), "_max_workers", 2)


def _reported(store: BatchStore, plan: Plan, rounds: Rounds, lease: Lease) -> Any:
    """The state that the flow ends in."""
    why = lease.reason or ("The process was told to end." if stopping.is_asked() else "")
    if why:  # there may be no time for the tables, or they are another's to write
        message = f"{why} To go on without paying again, run batch {plan.batch_id!r} once more."
        return Cancelled(message=message) if is_cancelled() else Failed(message=message, data=N1nError(message))
    report, words = write_report(store, plan, rounds)
    return final_state(report, rounds, words)
