"""How a paid call is carried out inside a Prefect run: its storage, scope, clients, limits and logs."""

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from typing import Any, TypeVar

from prefect.blocks.core import Block
from prefect.context import TaskRunContext
from prefect.settings import get_current_settings

from n1n_prefect import budget, errors, events, metrics, pools, spans, stopping
from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.client import ReplyHead
from n1n_prefect.durability import require_shared
from n1n_prefect.errors import Charged, InvalidRequestError, N1nError, RateLimitError, StagingError
from n1n_prefect.flights import SingleFlight, loop_of_this_thread
from n1n_prefect.https import fetch_https
from n1n_prefect.images import GeneratedImage, ImageRequest, Spending, UploadedImage
from n1n_prefect.journal import Storage
from n1n_prefect.locks import SharedLock
from n1n_prefect.outcomes import remember_failure
from n1n_prefect.paid_call import PaidCall
from n1n_prefect.policies import current_scope, expiry, is_last_attempt, lock_manager
from n1n_prefect.run_log import get_logger
from n1n_prefect.settings import settings
from n1n_prefect.sources import load_request
from n1n_prefect.spool import Arrival, Spool
from n1n_prefect.staging import current_storage, keep_at_hand, spool_folder
from n1n_prefect.steps import (
    Describe,
    Fetch,
    Forget,
    Models,
    Open,
    Pause,
    Read,
    Recall,
    Reserve,
    Send,
    Settle,
    Turn,
    Warn,
    Write,
    arun,
    in_thread,
    run,
)  # fmt: skip

BlockT = TypeVar("BlockT", bound=Block)
_LOOP_SECONDS = 60.0  # how long a synchronous call may stop an event loop for a slot of a named limit
_flights: SingleFlight[GeneratedImage] = SingleFlight()


def pay(
    request: ImageRequest,
    *,
    credentials: N1nCredentials,
    source: S3Location | None = None,
    spending: Spending | None = None,
    take: int = 0,
) -> GeneratedImage:
    """The image for a request: from the journal if it was paid for, else by one paid call.

    Args:
        request: What is asked.
        credentials: Who pays.
        source: Where `s3://` inputs and earlier uploads are read from.
        spending: What may be paid for again; the settings' if not given.
        take: Which repetition this is of a request whose image was not good enough.

    Raises:
        N1nError: In its class; it has been logged.
    """
    with reported(request):
        return _paid(_prepare(request, credentials, source, spending, take))


async def apay(
    request: ImageRequest,
    *,
    credentials: N1nCredentials,
    source: S3Location | None = None,
    spending: Spending | None = None,
    take: int = 0,
) -> GeneratedImage:
    """`pay` for asynchronous code."""
    with reported(request):
        return await _apaid(await in_thread(partial(_prepare, request, credentials, source, spending, take)))


def require_block(value: object, kind: type[BlockT], name: str) -> BlockT:
    """The block, or a sentence that says what was given in its place.

    Raises:
        InvalidRequestError: It is no such block.
    """
    if isinstance(value, kind):
        return value
    hint = f"Give {name}={kind.__name__}.load('NAME')"
    if isinstance(value, tuple):
        raise InvalidRequestError(
            f"{name} is {value[0] if value else 'nothing'!r:.40}, one field of a block: .map took the block apart. "
            f"Wrap it in unmapped({name})."
        )
    raise InvalidRequestError(
        f"{name} must be a {kind.__name__} block, not {type(value).__name__}. {hint}; with .map, unmapped({name})."
    )


@dataclass
class Meter:
    """What an image took, over all calls that were made for it."""

    calls: int = 0
    """How many were sent."""

    waited_seconds: float = 0.0
    """How long they waited for a turn or a pause that the gateway asked for, together."""


_meter: ContextVar[Meter | None] = ContextVar("n1n_prefect_meter", default=None)


@contextmanager
def metered() -> Generator[Meter]:
    """Counts what the paid calls within it take."""
    meter = Meter()
    token = _meter.set(meter)
    try:
        yield meter
    finally:
        _meter.reset(token)


# ── one job ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Job:
    """A paid call and what it is carried out with."""

    call: PaidCall
    credentials: N1nCredentials
    storage: Storage
    spool: Spool
    run: str
    started: float
    lock: SharedLock | None = None


def _prepare(
    request: ImageRequest, credentials: N1nCredentials, source: S3Location | None, spending: Spending | None, take: int
) -> Job:
    require_block(credentials, N1nCredentials, "credentials")
    if spending is not None and not isinstance(spending, Spending):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequestError(f"spending must be a Spending, not {type(spending).__name__}; write Spending(…).")
    read_s3 = require_block(source, S3Location, "source").read if source is not None else None
    loaded = load_request(request, rules=settings().source_rules, read_s3=read_s3)
    scope = current_scope()
    key = loaded.key(
        base_url=credentials.base_url,
        account=credentials.account,
        scope=f"{scope}#{take}" if take else scope,
    )
    manager = lock_manager()
    call = PaidCall(
        loaded,
        key,
        spending or settings().spending,
        credentials.price_factor,
        credentials.prices,
        refresh=_refreshes(),
        since=_since(),
        is_shared=manager is not None,
        secret=credentials.api_key.get_secret_value(),
    )
    lock = SharedLock(manager, key, credentials.timeout_seconds) if manager else None
    storage = current_storage()
    require_shared(storage)
    return Job(call, credentials, storage, Spool(spool_folder()), _run(), time.monotonic(), lock)


def _run() -> str:
    """What a ceiling is counted for: the flow run at the top, or this process outside of one."""
    context = TaskRunContext.get()
    return current_scope("run") if context and context.task_run.flow_run_id else "process"


def _refreshes() -> str:
    """The task run whose user asked for a new answer, or nothing; a retry of it finds what it paid for."""
    context = TaskRunContext.get()
    if context is None:
        return ""
    asked = context.task.refresh_cache
    asked = get_current_settings().tasks.refresh_cache if asked is None else asked
    return str(context.task_run.id) if asked else ""


def _since() -> datetime | None:
    """Before when an answer has expired, by the task's `cache_expiration`.

    It counts from the task run's first start, so that no retry finds its own payment expired.
    """
    expires, context = expiry(), TaskRunContext.get()
    if expires is None or context is None:
        return None
    return (context.task_run.start_time or datetime.now(timezone.utc)) - expires


def _paid(job: Job) -> GeneratedImage:
    with _observed(job):
        image, joined = _flights.run(job.call.key, partial(_carry_out, job))
        return _noted(job, image, joined=joined)


async def _apaid(job: Job) -> GeneratedImage:
    with _observed(job):
        image, joined = await _flights.arun(job.call.key, partial(_acarry_out, job))
        return _noted(job, image, joined=joined)


def _carry_out(job: Job) -> GeneratedImage:
    try:
        with ExitStack() as turn:
            hands = Hands(job, turn)
            with hands.seen():
                return hands.gave(run(job.call.steps(), hands.do))
    finally:
        if job.lock:
            job.lock.release()


async def _acarry_out(job: Job) -> GeneratedImage:
    try:
        async with AsyncExitStack() as turn:
            hands = AsyncHands(job, turn)
            with hands.seen():
                return hands.gave(await arun(job.call.steps(), hands.do, hands.ado))
    finally:
        if job.lock:
            await in_thread(job.lock.release)


class _Hands:
    """What both kinds do alike, in whatever thread: all steps that wait for nobody."""

    arrival: Arrival

    def __init__(self, job: Job, turn: Any) -> None:
        self.job = job
        self.turn = turn
        self.waited_seconds = 0.0
        self.pace = pools.pace_of(job.credentials)
        self.sent_at: float | None = None
        self.meter = _meter.get()
        self.call = spans.GatewayCall(job.call.loaded, base_url=job.credentials.base_url, request_key=job.call.key)

    @contextmanager
    def seen(self) -> Generator[None]:
        """Says of the call that was made, if one was, why no image came of it."""
        try:
            yield
        except BaseException as error:
            self.call.failed(error, events.kind_of(error))
            if self.sent_at is not None and isinstance(error, RateLimitError):
                self.pace.slowed(self.sent_at, _bounded(error.retry_after_seconds, self.job.call.spending))
            raise
        if self.sent_at is not None:
            self.pace.went_well(self.sent_at)

    def gave(self, image: GeneratedImage) -> GeneratedImage:
        """The image, which is also said of the call that was made, if one was."""
        self.call.gave(image)
        return image

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Counts how long the call waits for others."""
        begun = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - begun
            self.waited_seconds += seconds
            if self.meter:
                self.meter.waited_seconds += seconds

    def sending(self, step: Send) -> AbstractContextManager[None]:
        """The span of the call."""
        self.sent_at = self.pace.now()
        if self.meter:
            self.meter.calls += 1
        return self.call.sending(
            attempt=step.attempt,
            waited_seconds=self.waited_seconds,
            size_bytes=len(step.request.body),
            lost=step.lost,
        )

    def arrived(self, head: ReplyHead) -> None:
        """Ends the reply in the spool."""
        self.arrival.whole(head)
        self.call.arrived(head.status, head.headers, self.arrival.size_bytes)

    def do(self, step: Any) -> Any:  # noqa: C901 - one case a step
        """One step's answer."""
        job = self.job
        match step:
            case Read(key):
                return job.storage.read(key)
            case Write(key, data):
                with spans.span("n1n.stage", **_staged(key, data)):
                    job.storage.write(key, data)
                if not _is_record(key):
                    keep_at_hand(key, data)
            case Describe(key):
                return job.storage.describe(key)
            case Open(name):
                with _spooling("no"):
                    self.arrival = self.turn.enter_context(job.spool.arriving(name))
            case Recall(name):
                return job.spool.find(name)
            case Forget(name):
                job.spool.forget(name)
            case Fetch(url):
                return fetch_https(url)
            case Reserve(usd, spending):
                return budget.reserve(job.run, usd, spending, account=job.credentials.account)
            case Settle(reservation, usd):
                budget.settle(reservation, usd)
            case Warn(message):
                get_logger().warning(message)
            case _:
                raise TypeError(step)
        return None


def _bounded(seconds: float | None, spending: Spending) -> float | None:
    """A wait that is longer than the user allows fails the call that was told of it, and stops no other."""
    return None if seconds is None else min(seconds, spending.max_wait_seconds)


def _is_record(key: str) -> bool:
    return "/journal/" in key


def _staged(key: str, data: bytes) -> dict[str, spans.Attribute]:
    """What a span says of a write: `original`, `sent` or `answered`, where, and how much."""
    what = key.rpartition(".")[2] if _is_record(key) else "original"
    return {"n1n.stage.what": what, "n1n.storage_key": key, "n1n.size_bytes": len(data)}


class Hands(_Hands):
    """Carries out the steps of a job in this thread; its turn ends with the call, or with `turn`."""

    turn: ExitStack

    def do(self, step: Any) -> Any:
        """One step's answer."""
        match step:
            case Turn():
                with self.waiting():
                    return self._take_turn()
            case Pause(seconds):
                with self.waiting():
                    return time.sleep(seconds)
            case Send():
                return self._send(step)
            case Models():
                return self._models()
            case _:
                return super().do(step)

    def _take_turn(self) -> bool:
        self.turn.enter_context(self.pace.turn())
        stopping.refuse()
        if limit := self.job.credentials.concurrency_limit:
            self.turn.enter_context(_global_slot(limit))
        if self.job.lock is None or self.job.lock.acquire():
            return False
        self.turn.close()
        return True

    def _send(self, step: Send) -> None:
        client = pools.shared_client(self.job.credentials)
        with self.sending(step), _spooling("unknown"), self.turn.pop_all():
            self.arrived(client.send(step.request, self.arrival))

    def _models(self) -> list[str]:
        try:
            return pools.shared_client(self.job.credentials).models()
        except N1nError:
            return []


class AsyncHands(_Hands):
    """Carries out in this event loop what waits for others; its turn ends as that of `Hands`."""

    turn: AsyncExitStack

    async def ado(self, step: Any) -> Any:
        """One step's answer."""
        match step:
            case Turn():
                with self.waiting():
                    return await self._take_turn()
            case Pause(seconds):
                with self.waiting():
                    return await asyncio.sleep(seconds)
            case Send():
                return await self._send(step)
            case Models():
                return await self._models()
            case _:
                raise TypeError(step)

    async def _take_turn(self) -> bool:
        await self.turn.enter_async_context(self.pace.aturn())
        stopping.refuse()
        if limit := self.job.credentials.concurrency_limit:
            await self.turn.enter_async_context(_aglobal_slot(limit))
        if self.job.lock is None or await in_thread(self.job.lock.acquire):
            return False
        await self.turn.aclose()
        return True

    async def _send(self, step: Send) -> None:
        async with pools.leased_client(self.job.credentials) as client:
            with self.sending(step), _spooling("unknown"):
                async with self.turn.pop_all():
                    self.arrived(await client.send(step.request, self.arrival))

    async def _models(self) -> list[str]:
        try:
            async with pools.leased_client(self.job.credentials) as client:
                return await client.models()
        except N1nError:
            return []


@contextmanager
def _global_slot(name: str) -> Generator[None]:
    """A slot of a limit that workers share; a lost Prefect server neither ends the call nor hides its reply."""
    from prefect.concurrency.sync import concurrency

    # Who holds the slots may need the loop of this thread to go on.
    patience = _LOOP_SECONDS if loop_of_this_thread() else None
    slot = concurrency(name, strict=True, raise_on_lease_renewal_failure=False, timeout_seconds=patience)
    with _acquiring(name):
        slot.__enter__()
    try:
        yield
    finally:
        with _releasing(name):
            slot.__exit__(None, None, None)


@asynccontextmanager
async def _aglobal_slot(name: str) -> AsyncGenerator[None]:
    from prefect.concurrency.asyncio import concurrency

    slot = concurrency(name, strict=True, raise_on_lease_renewal_failure=False)
    with _acquiring(name):
        await slot.__aenter__()
    try:
        yield
    finally:
        with _releasing(name):
            await slot.__aexit__(None, None, None)


@contextmanager
def _acquiring(name: str) -> Generator[None]:
    from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError

    try:
        yield
    except Exception as exc:
        if isinstance(exc, ConcurrencySlotAcquisitionError) and exc.__cause__ is None:
            raise InvalidRequestError(
                f"There is no global concurrency limit {name!r}, as the credentials' concurrency_limit names it. "
                f"Create it with `prefect gcl create {name} --limit 8`, or leave the field empty."
            ) from exc
        raise N1nError(
            f"The Prefect API gave no slot of {name!r} ({exc}); nothing was sent.", is_transient=True
        ) from exc


@contextmanager
def _releasing(name: str) -> Generator[None]:
    try:
        yield
    except Exception as exc:  # noqa: BLE001 - the lease ends by itself; the reply matters more
        get_logger().warning("The slot of %r was not given back (%s); its lease will end.", name, exc)


@contextmanager
def _spooling(charged: Charged) -> Generator[None]:
    try:
        yield
    except OSError as exc:
        raise StagingError(
            f"The reply cannot be spooled to the local disk ({exc}); "
            f"{'nothing was sent' if charged == 'no' else 'it may have been paid'}. "
            "Free the disk below PREFECT_LOCAL_STORAGE_PATH.",
            charged=charged,
        ) from exc


# ── what is seen of it ───────────────────────────────────────────────────────


@contextmanager
def _observed(job: Job) -> Generator[None]:
    call = job.call
    with spans.span("n1n.generate", **spans.image_attributes(call.loaded.request, request_key=call.key)):
        try:
            yield
        except N1nError as error:
            _be_patient(error, job.call.spending)
            spans.annotate_failure(events.kind_of(error))
            raise


def _be_patient(error: N1nError, spending: Spending) -> None:
    """Makes a wait that is longer than the user allows final."""
    wait = error.retry_after_seconds
    if error.is_transient and wait is not None and wait > spending.max_wait_seconds:
        error.is_transient = False
        error.message += f" It asks to wait {wait:g} s, longer than max_wait_seconds={spending.max_wait_seconds:g}."
        error.args = (error.message,)


@contextmanager
def reported(
    subject: ImageRequest | GeneratedImage | UploadedImage | None = None,
    *,
    is_about_image: bool = True,
    goes_on: tuple[type[N1nError], ...] = (),
) -> Generator[None]:
    """Says on an error what it is about, logs it, emits its event and remembers it for `gather_outcomes`.

    Prefect writes no log line when a retry condition says no.

    Args:
        subject: What was asked for or worked on.
        is_about_image: Whether the image has failed; else no event and no metric says so.
        goes_on: Errors after which the task itself tries again, so that none of them is final.
    """
    model = subject.model if subject else ""
    image = subject.original if isinstance(subject, UploadedImage) else subject
    image = image if isinstance(image, GeneratedImage) else None
    try:
        yield
    except N1nError as error:
        error.image = error.image or image
        error.model = model
        error.prompt_excerpt = getattr(image or subject, "prompt_excerpt", "")
        error.charge = errors.charge_in_words(error)
        remember_failure(error)
        # Their frames hold replies and input images, and Prefect keeps the error as long as the run.
        traceback.clear_frames(error.__traceback__)
        is_final = is_final_failure(error) and not isinstance(error, goes_on)
        _log(error, is_final=is_final)
        if is_about_image:
            _tell(error, image, model, is_final=is_final)
        raise
    except Exception:
        get_logger().exception("An error that n1n-prefect has no class for; nothing is tried again.")
        raise


def _log(error: N1nError, *, is_final: bool) -> None:
    # Without a traceback, which says nothing to who watches a run.
    level = logging.ERROR if is_final and not error.is_transient else logging.WARNING
    get_logger().log(level, "%s: %s", type(error).__name__, error)


def _tell(error: N1nError, image: GeneratedImage | None, model: str, *, is_final: bool) -> None:
    kind = events.kind_of(error)
    events.emit(kind, image=image, error=error, model=model, is_final=is_final)
    if is_final:
        metrics.ended(kind, model=model, error=type(error).__name__)


def is_final_failure(error: N1nError) -> bool:
    """Whether Prefect will not run the task again after this."""
    return not error.is_transient or is_last_attempt()


def _noted(job: Job, image: GeneratedImage, *, joined: bool) -> GeneratedImage:
    """The image, with its log line, event, metrics and span attributes."""
    image = replace(image, reused=True) if joined else image
    logger = get_logger()
    facts = f"{image.width}x{image.height} {image.media_type}, {image.size_bytes / 1e6:.2f} MB, {image.model}"
    if image.reused:
        logger.info("Reused %s, nothing paid; pass sample= for another", facts)
    else:
        seconds = time.monotonic() - job.started
        logger.info("Generated %s, %s, in %.1f s", facts, _dollars(image.estimated_cost_usd), seconds)
    kind: events.EventKind = "reused" if image.reused else "generated"
    events.emit(kind, image=image)
    metrics.ended(kind, model=image.model, image=None if image.reused else image)
    spans.annotate_image(image, kind)
    return image


def _dollars(usd: float | None) -> str:
    return "price unknown" if usd is None else f"${usd:.4f}"
