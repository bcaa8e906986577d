"""The accepted batch: a manifest read, checked and cut into chunks in the bucket, before anything is spent.

`plan.json` is written last, so that a planning that was killed leaves no plan that looks whole.
"""

import errno
import hashlib
import sqlite3
import tempfile
from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from n1n_prefect import catalog
from n1n_prefect.batch.checking import RowChecker
from n1n_prefect.batch.drafting import CarriedType, Draft
from n1n_prefect.batch.estimating import RunningEstimate
from n1n_prefect.batch.inputs import checking_inputs
from n1n_prefect.batch.items import ITEM, BadRow, Item
from n1n_prefect.batch.manifest import Manifest, open_manifest
from n1n_prefect.batch.ownership import checked_batch_id, claim, is_claimed
from n1n_prefect.batch.seen import Seen
from n1n_prefect.batch.store import BatchStore
from n1n_prefect.blocks import S3Location
from n1n_prefect.errors import InvalidRequestError, StagingError
from n1n_prefect.images import Spending
from n1n_prefect.pricing import Charges, CostEstimate, saying
from n1n_prefect.sources import SourceRules, _printable
from n1n_prefect.variants import Variant

PLAN = "_batch/plan.json"
BAD_ROWS = "bad_rows.jsonl"
OnBadRows = Literal["strict", "skip"]

_MAX_CHUNKS = 100_000  # as many as five digits name in order
_UPLOADS_AT_ONCE = 8


@dataclass(frozen=True)
class Plan:
    """A batch that was read and found to be right: what it holds, costs and takes."""

    batch_id: str
    """The batch's name."""

    manifest: str
    """Where the manifest was read."""

    manifest_sha256: str
    """SHA-256 of the manifest, lower-case hex: another one is another plan."""

    manifest_bytes: int
    """Length of the manifest in bytes."""

    items: int
    """Rows that will be carried out."""

    bad_rows: int
    """Rows that cannot be and are left out; each stands in `bad_rows.jsonl` with its line and the reason."""

    chunks: int
    """How many chunks the items are cut into, numbered from 0."""

    chunk_size: int
    """The most items of a chunk; one of long items has fewer."""

    chunk_digests: tuple[str, ...]
    """The start of each chunk's SHA-256, lower-case hex: another one is another chunk."""

    estimate: CostEstimate
    """What the images will cost; items that are equal to an earlier one share its image and are its `repeated`."""

    carried: dict[str, CarriedType] = field(default_factory=dict[str, CarriedType])
    """The columns that are carried through to the results, in order, and what their values are."""

    schema_version: int = 1
    """Which form of this document it is."""

    @property
    def rows(self) -> int:
        """Rows of the manifest, bad ones included."""
        return self.items + self.bad_rows

    def items_in(self, chunk: int) -> int:
        """About how many items a chunk has: fewer where they are long."""
        return min(self.chunk_size, max(self.items - chunk * self.chunk_size, 1))

    @property
    def repeated(self) -> int:
        """Items that share an earlier one's image and cost nothing."""
        return self.estimate.repeated

    @property
    def by_model(self) -> dict[str, int]:
        """Items by model."""
        return {model: each.images + each.repeated for model, each in self.estimate.by_model.items()}

    def hours(self, in_flight: int) -> float:
        """About how long the calls take, with so many at once; waiting for a busy gateway is not in it."""
        seconds = sum(each.images * _usual_seconds(model) for model, each in self.estimate.by_model.items())
        return seconds / max(1, in_flight) / 3600

    def summary(self, in_flight: int) -> str:
        """What the batch is, in a few sentences for people."""
        models = sorted(self.by_model.items(), key=lambda each: -each[1])
        counts = ", ".join(f"{count:,} of {model}" for model, count in models)
        what = f"{_counted(self.items, 'image')} from {_printable(self.manifest)} ({counts})"
        time = f"{_duration(self.hours(in_flight))} with {_counted(in_flight, 'call')} at once"
        return " ".join((f"{what}: about ${self.estimate.usd:,.2f} and {time}.", *self._reservations()))

    def _reservations(self) -> Iterator[str]:
        if self.estimate.most_usd > self.estimate.usd:
            yield f"At most ${self.estimate.most_usd:,.2f}, if every call were lost or imageless as often as allowed."
        if self.estimate.unpriced:
            yield f"The dollars leave out {', '.join(self.estimate.unpriced)}, whose price is not known."
        if self.repeated:
            yield f"Equal to an earlier row, and so sharing its image: {self.repeated:,}; another sample draws anew."
        if self.bad_rows:
            yield f"Left out: {_counted(self.bad_rows, 'bad row')}; {BAD_ROWS} says why."

    def __str__(self) -> str:
        return self.summary(in_flight=8)


_PLAN: TypeAdapter[Plan] = TypeAdapter(Plan)


def _usual_seconds(model: str) -> float:
    known = catalog.find(model)
    return known.usual_seconds if known else catalog.USUAL_SECONDS


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return "less than a minute"
    return f"{hours:,.1f} hours" if hours >= 1 else f"{hours * 60:.0f} minutes"


# ── making one ───────────────────────────────────────────────────────────────


def make_plan(
    manifest: str | Path,
    *,
    batch_id: str,
    store: BatchStore,
    destination: S3Location,
    source: S3Location | None = None,
    rules: SourceRules | None = None,
    defaults: Mapping[str, Any] | None = None,
    variants: Sequence[Variant] = (),
    sidecars: bool = False,
    reserved: Collection[str] = (),
    credentials: Charges | None = None,
    spending: Spending | None = None,
    chunk_size: int = 100,
    on_bad_rows: OnBadRows = "strict",
    check_inputs: bool = True,
    max_items: int = 1_000_000,
    named_after_manifest: bool = False,
    dry_run: bool = False,
) -> Plan:
    """Reads a manifest, checks every row, and puts the plan and its chunks into the store.

    Args:
        manifest: A local path below the input roots or an `s3://` address; see `open_manifest` for its formats.
        batch_id: Whose folder the store is.
        store: Where the plan goes.
        destination: Where images will go, for their keys.
        source: How `s3://` manifests and input images are reached; the destination if not given.
        rules: Below which folders local files may be read.
        defaults: Fields of `ImageRequest` that hold where a row says nothing.
        variants: The batch's variants.
        sidecars: Whether each image has a sidecar.
        reserved: Names of the results table's own columns, which no carried column may have.
        credentials: For what the gateway charges.
        spending: How often a call may be paid for again.
        chunk_size: The most items of a chunk.
        on_bad_rows: `strict` refuses the manifest if one row is bad, `skip` goes on with the others.
        check_inputs: Whether local and `s3://` input images are looked for.
        max_items: The most rows.
        named_after_manifest: Whether the batch has its id from the manifest's name, which another may have as well.
        dry_run: Whether nothing at all is written.

    Raises:
        InvalidRequestError: The manifest, an argument or, under `strict`, a row is bad; or the folder is another
            batch's. The plan, if there was one, is then as it was.
        SourceError: The manifest cannot be read, or the store of input images cannot be asked.
        UploadError: The store refused or could not be reached.
        StagingError: There is no room for temporary files.
    """
    _check_numbers(chunk_size=chunk_size, max_items=max_items)
    if on_bad_rows not in ("strict", "skip"):
        raise InvalidRequestError(f"on_bad_rows={on_bad_rows!r} is neither 'strict' nor 'skip'.")
    checked_batch_id(batch_id)
    (is_claimed if dry_run else claim)(store, batch_id)
    rules, source = rules or SourceRules(), source or destination
    with ExitStack() as stack:
        folder = stack.enter_context(_temporary_folder())
        table = stack.enter_context(open_manifest(manifest, rules=rules, source=source))
        seen = stack.enter_context(Seen(folder / "seen.sqlite"))
        checker = RowChecker(
            destination=destination,
            folder=store.folder,
            seen=seen,
            defaults=defaults,
            variants=variants,
            sidecars=sidecars,
            reserved=reserved,
        )
        rows = _checked(table, checker, max_items)
        if check_inputs:
            rows = stack.enter_context(checking_inputs(rules=rules, source=source)).checked(rows)
        estimate = RunningEstimate(seen, credentials=credentials, spending=spending)
        draft = stack.enter_context(Draft(folder, estimate, chunk_size))
        for row in rows:
            draft.add(row)
        plan = _plan_of(draft, table, batch_id, chunk_size)
        if named_after_manifest:
            _check_same(plan, store)
        _finish(plan, draft, store, on_bad_rows, dry_run)
    return plan


def _check_same(plan: Plan, store: BatchStore) -> None:
    """Refuses a manifest that has neither place nor content in common with the one that the batch was made of."""
    earlier = read_plan(store)
    if earlier and earlier.manifest != plan.manifest and earlier.manifest_sha256 != plan.manifest_sha256:
        name = plan.batch_id
        raise InvalidRequestError(
            f"Batch {name!r} at {store.uri_of()} was made of {_printable(earlier.manifest)}, and this is "
            f"{_printable(plan.manifest)}, with other rows. Give it a batch_id of its own; or, if it is the same "
            f"batch, say so by batch_id={name!r} (--batch-id {name})."
        )


def _check_numbers(**numbers: object) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InvalidRequestError(f"{name}={number!r} must be a whole number of at least 1.")


@contextmanager
def _temporary_folder() -> Generator[Path]:
    """A folder for the plan in the making; a full disk is said as such."""
    with tempfile.TemporaryDirectory(prefix="n1n-plan-") as folder:
        try:
            yield Path(folder)
        except (OSError, sqlite3.OperationalError) as exc:
            is_full = exc.errno == errno.ENOSPC if isinstance(exc, OSError) else "full" in str(exc)
            if not is_full:
                raise
            raise StagingError(
                f"There is no room left in {folder!r} for the plan in the making, which takes about as much as the "
                "manifest unpacked; make room, or point TMPDIR to a larger disk.",
                is_transient=False,
            ) from None


def _checked(table: Manifest, checker: RowChecker, max_items: int) -> Iterator[Item | BadRow]:
    name = _printable(table.uri)
    if table.columns is not None:
        with saying(f"{name}, {'columns' if table.format == '.parquet' else 'line 1'}"):
            checker.check_header(table.columns)
    for number, row in enumerate(table.rows, 1):
        if number > max_items:
            raise InvalidRequestError(f"{name} has more than {max_items:,} rows; split it into several batches.")
        yield row if isinstance(row, BadRow) else checker.check(row)


def _plan_of(draft: Draft, table: Manifest, batch_id: str, chunk_size: int) -> Plan:
    if draft.chunk_count > _MAX_CHUNKS:
        raise InvalidRequestError(
            f"{draft.items:,} items make {draft.chunk_count:,} chunks, and at most {_MAX_CHUNKS:,} are kept; raise "
            f"chunk_size={chunk_size}."
        )
    return Plan(
        batch_id,
        table.uri,
        table.sha256,
        table.size_bytes,
        draft.items,
        draft.bad_rows,
        draft.chunk_count,
        chunk_size,
        tuple(map(_digest, draft.chunks())),
        draft.estimate.total(),
        draft.carried,
    )


def _finish(plan: Plan, draft: Draft, store: BatchStore, on_bad_rows: OnBadRows, dry_run: bool) -> None:
    draft.close_bad_rows()
    if not dry_run:
        # Written when there are none, too: an earlier planning may have left some.
        store.write_file(BAD_ROWS, draft.bad_rows_path, "application/x-ndjson")
    if plan.bad_rows and (on_bad_rows == "strict" or not plan.items):
        uri = "" if dry_run else store.uri_of(BAD_ROWS)
        raise InvalidRequestError(_bad_rows_in_words(plan, draft.first_bad_rows, uri))
    if not dry_run:
        _write(plan, draft, store)


def _bad_rows_in_words(plan: Plan, first: list[BadRow], uri: str) -> str:
    rows = [f"line {row.line}{f' (id {row.id!r:.80})' if row.id else ''}: {row.reason[:300]}" for row in first]
    more = f"\nand {plan.bad_rows - len(first):,} more" if plan.bad_rows > len(first) else ""
    skip = ", or leave them out with on_bad_rows='skip' (--skip-bad-rows)" if plan.items else ""
    where = f" All of them are in {uri}" if uri else ""
    return (
        f"{_printable(plan.manifest)} has {_counted(plan.bad_rows, 'bad row')} of {plan.rows:,}, and nothing was "
        f"spent. Correct them{skip}.{where}\n" + "\n".join(rows) + more
    )


def _write(plan: Plan, draft: Draft, store: BatchStore) -> None:
    if store.read(PLAN) is not None:
        # From here on its chunks are gone one by one.
        store.write(PLAN, b"null")
    with ThreadPoolExecutor(_UPLOADS_AT_ONCE, thread_name_prefix="n1n-plan") as pool:
        under_way: deque[Future[None]] = deque()
        for number, chunk in enumerate(draft.chunks()):
            if len(under_way) == _UPLOADS_AT_ONCE:
                under_way.popleft().result()
            under_way.append(pool.submit(store.write, _chunk_name(number), chunk, "application/x-ndjson"))
        for upload in under_way:
            upload.result()
    store.write(PLAN, _PLAN.dump_json(plan))


# ── reading it ───────────────────────────────────────────────────────────────


def read_plan(store: BatchStore) -> Plan | None:
    """The plan in a store, or None where there is none, or one that was not finished.

    Raises:
        InvalidRequestError: There is one that this release cannot read.
        UploadError: It cannot be read.
    """
    data = store.read(PLAN)
    if data is None or data == b"null":
        return None
    try:
        return _PLAN.validate_json(data)
    except ValidationError:
        raise InvalidRequestError(
            f"{store.uri_of(PLAN)} is no plan that this release reads; go on with the release that wrote it, or delete "
            "the document to plan anew."
        ) from None


def _digest(chunk: bytes) -> str:
    return hashlib.sha256(chunk).hexdigest()[:16]


def read_chunk(store: BatchStore, number: int, digest: str = "") -> list[Item]:
    """The items of one chunk, in order.

    Args:
        store: Where the plan is.
        number: Which chunk, from 0 to below the plan's `chunks`.
        digest: What the plan says of it, so that no other plan's chunk is taken for it; any if empty.

    Raises:
        InvalidRequestError: There is no such chunk, or it is damaged or another plan's.
        UploadError: It cannot be read.
    """
    data = store.read(_chunk_name(number)) or b""
    if digest and data and _digest(data) != digest:
        raise InvalidRequestError(
            f"{store.uri_of(_chunk_name(number))} was planned anew while it was to be carried out; two runs of one "
            "batch are under way. Run it once more when both have ended. What was paid for stays paid."
        )
    try:
        items = [ITEM.validate_json(line) for line in data.splitlines()]
    except ValidationError:
        items = []
    if not items:
        raise InvalidRequestError(
            f"{store.uri_of(_chunk_name(number))} is missing or damaged; delete {store.uri_of(PLAN)} to plan anew. "
            "What was paid for stays paid."
        )
    return items


def _chunk_name(number: int) -> str:
    return f"_batch/plan/{number:05}.jsonl"
