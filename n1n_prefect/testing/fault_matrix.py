"""Does my flow ever pay twice, or lose a picture that it paid for? It is run under each fault, and the bill is read."""

import asyncio
import contextvars
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from types import GeneratorType
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from n1n_prefect.images import OUTCOME_STATUSES, ImageOutcome, excerpt
from n1n_prefect.masking import without_secrets
from n1n_prefect.testing.drawing import Drawing, Picture
from n1n_prefect.testing.fault_kind import Fault
from n1n_prefect.testing.fault_rows import FaultMatrix, FaultRow
from n1n_prefect.testing.faults import FAULTS, Faults, parse_step
from n1n_prefect.testing.found_images import parts_of, sha256s_in
from n1n_prefect.testing.gateway import LocalGateway
from n1n_prefect.testing.ledger import Call

if TYPE_CHECKING:
    from n1n_prefect.blocks import N1nCredentials

FlowCall = Callable[["N1nCredentials"], object]
T = TypeVar("T")
_LONGEST_SECONDS = 3600
_LAZY = (GeneratorType, map, filter, zip)
_WORDS = 90  # characters of an error that a row keeps


def run_fault_matrix(
    flow_call: FlowCall,
    *,
    faults: Sequence[str] | None = None,
    images: int | None = None,
    kept: Callable[[], object] | None = None,
    seconds: float = 1,
) -> FaultMatrix:
    """A flow run once under each fault, and what the gateway's ledger says of it.

    Every run has a local gateway of its own, with credentials for it, and the fault strikes the
    first call; nothing is shared between runs, and no money is spent. On two cores, with a local
    Prefect API, all faults take half a minute for an asynchronous flow of one image (0.2 to 0.4 s a run),
    and two to three minutes for a synchronous one (1.2 to 1.6 s a run): name `faults` where that is too long.

    That is without the flow's own waits, which are as long as in earnest. Shorten them with
    `generate_image.with_options(retry_delay_seconds=HintedDelays([0.05]))`, or for a flow as it is with
    `monkeypatch.setattr(n1n_prefect.generate_image, "retry_delay_seconds", HintedDelays([0.05]))`, and so on
    for its other tasks. `HintedDelays` still waits as long as the gateway asks.

    Example:
        ```python
        def test_my_flow_pays_once(n1n_fault_matrix):
            n1n_fault_matrix(lambda credentials: my_flow(["a fox"], credentials)).assert_paid_once()
        ```

    Args:
        flow_call: Runs the flow with the credentials that it is given, and returns what the flow returns; may be
            asynchronous, and then runs in a loop of its own. Images are recognised in it at any depth: this package's
            results, bytes, names of files, and texts with a SHA-256 in them. An exception out of it is a row as well.
        faults: Names of `FAULTS`, or steps as for `Faults.plan`, such as `internal:2` or `gzip+drip`; all faults if
            not given. The first of them, `ok`, is none, and shows the flow when all goes well.
        images: How many images the flow asks for. If not given, each different request is taken for one; give it
            if the flow asks the same several times on purpose, or asks differently when it tries again.
        kept: Called after each run, however it ended. What it returns is searched as well, such as the files of a
            folder or the bytes of a bucket's objects: for flows that return no images, or fail after they kept some.
        seconds: How long faults ask to wait, or hold up an answer, where that can be set.

    Raises:
        ValueError: An argument makes no sense, such as a fault that there is not.
        TypeError: `flow_call` or `kept` cannot be called.
    """
    for name, value in (("flow_call", flow_call), ("kept", kept)):
        if not (callable(value) or (value is None and name == "kept")):
            raise TypeError(f"{name} must be a callable, not {type(value).__name__}; write a lambda.")
    if images is not None and images < 1:
        raise ValueError(f"images={images!r} must be at least 1, or left out.")
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise ValueError(f"seconds={seconds!r} must be 0 to {_LONGEST_SECONDS}.")
    # A whole number goes into Retry-After as one: many clients understand nothing else.
    matrix = _Matrix(flow_call, images, kept, int(seconds) if seconds == int(seconds) else seconds)
    steps = _steps(faults)
    return FaultMatrix(_outside_of_loops(lambda: tuple(matrix.row(step) for step in steps)))


def _steps(faults: Sequence[str] | None) -> tuple[str, ...]:
    steps = (faults,) if isinstance(faults, str) else tuple(FAULTS if faults is None else faults)
    if not steps:
        raise ValueError("faults is empty; name some, or leave it out for all of n1n_prefect.testing.FAULTS.")
    Faults().plan(steps)  # a wrong name ends it now, and not after a minute
    return steps


def _outside_of_loops(run: Callable[[], T]) -> T:
    """What it returns, in another thread if this one runs an event loop: there an asynchronous flow cannot be run."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(contextvars.copy_context().run, run).result()


# ── one run ──────────────────────────────────────────────────────────────────


class _UnlikePictures(Drawing):
    """Prepared pictures, none like one of an earlier run: they may well end in the same bucket."""

    def __init__(self) -> None:
        super().__init__(canned=True)
        self.first = 0

    def draw_base64(self, picture: Picture) -> str:
        return super().draw_base64(replace(picture, number=self.first + (picture.number or 0)))


class _Matrix:
    def __init__(
        self, flow_call: FlowCall, images: int | None, kept: Callable[[], object] | None, seconds: float
    ) -> None:
        self._flow_call = flow_call
        self._images = images
        self._kept = kept
        self._seconds = seconds
        self._drawing = _UnlikePictures()

    def row(self, step: str) -> FaultRow:
        gateway = self._gateway(step)
        with gateway:
            credentials = _credentials(gateway)
            result = _ending_of(lambda: self._flow_call(credentials))
            _disconnect(credentials)
        # Read when it is closed: calls that the flow has left behind are over by then.
        calls = sorted(gateway.ledger.calls, key=lambda call: call.number)
        return self._judged(step, calls, result, sha256s_in([result, self._left()]))

    def _left(self) -> object:
        """What the flow left elsewhere; an error in finding it is the caller's own, and no row."""
        return _finished(self._kept()) if self._kept else None

    def _gateway(self, step: str) -> LocalGateway:
        # A key of its own: a port may come again, and with it the tasks' client of an earlier run.
        gateway = LocalGateway(api_keys=f"sk-fault-matrix-{uuid4().hex}", hash_images=True)
        self._drawing.first = uuid4().int
        gateway.drawing = self._drawing
        name, times = parse_step(step)
        details: dict[str, Any] = {}
        if any("seconds" in kind.details for kind in _kinds(name)):
            details["seconds"] = self._seconds
        gateway.faults.add(name, times, **details)
        return gateway

    def _judged(self, step: str, calls: list[Call], result: object, found: frozenset[str]) -> FaultRow:
        kinds = _kinds(parse_step(step)[0])
        struck = sum(bool(call.fault) for call in calls)
        missing = [call for call in calls if _gave_image(call) and call.image_sha256 not in found]
        lost = [call for call in missing if not any(kind.by_address for kind in _kinds(call.fault))]
        duplicates, maybe_twice = _paid_again(calls, self._images)
        ended, words = _said_of(result)
        return FaultRow(
            fault=step,
            outcome_is_known=not any(kind.in_doubt for kind in kinds),
            calls=len(calls),
            struck=struck,
            billed=sum(call.billed for call in calls),
            duplicates=duplicates,
            maybe_twice=maybe_twice,
            lost=len(lost),
            waited_seconds=_waited(calls),
            asked_seconds=struck * self._seconds if any(kind.asks_to_wait for kind in kinds) else 0,
            ended=ended,
            words=words,
            note=_note(len(calls), struck, unfetched=len(missing) > len(lost)),
        )


def _credentials(gateway: LocalGateway) -> "N1nCredentials":
    from pydantic import SecretStr

    from n1n_prefect.blocks import N1nCredentials

    # An account of its own, so that no journal of an earlier run knows the image.
    account = f"fault-matrix-{uuid4().hex}"
    return N1nCredentials(api_key=SecretStr(gateway.api_key), base_url=gateway.base_url, account=account)


def _disconnect(credentials: "N1nCredentials") -> None:
    """Closes what the tasks' client has open: a hundred gateways would leave a hundred sockets."""
    from n1n_prefect.pools import shared_client

    shared_client(credentials).close()


def _ending_of(call: Callable[[], object]) -> object:
    """What a call returns, awaited if need be, or the exception out of it."""
    try:
        return _finished(call())
    except (Exception, asyncio.CancelledError, SystemExit) as exc:  # noqa: BLE001 - however it ends, it is a row
        return exc


def _finished(result: object) -> object:
    """The result, or what it comes to once it is awaited or iterated, which may be when the calls are made."""
    if inspect.isawaitable(result):
        result = asyncio.run(_awaited(result))
    return list(result) if isinstance(result, _LAZY) else result


async def _awaited(awaitable: Awaitable[object]) -> object:
    return await awaitable


# ── what the ledger says ─────────────────────────────────────────────────────


def _kinds(names: str) -> list[Fault]:
    return [FAULTS[name.strip().lower()] for name in names.split("+") if name]


def _is_in_doubt(call: Call) -> bool:
    """Whether its caller could not know if it was charged, be it that it hung up."""
    return any(kind.in_doubt for kind in _kinds(call.fault)) or (call.billed and not call.delivered)


def _gave_image(call: Call) -> bool:
    """Whether it was charged and its caller has the image, or where to fetch it."""
    return call.billed and not _is_in_doubt(call)


def _by_request(calls: Iterable[Call]) -> list[list[Call]]:
    """The calls by what they asked; one that was not read asked what the next one did."""
    groups: dict[str, list[Call]] = {}
    unread: list[Call] = []
    for call in calls:
        unread.append(call)
        if call.request_sha256:
            groups.setdefault(call.request_sha256, []).extend(unread)
            unread = []
    return [*groups.values(), unread]


def _paid_again(calls: list[Call], images: int | None) -> tuple[int, int]:
    """Charged calls too many: those after the image was there, and those after nobody knew whether it was."""
    groups = _by_request(calls) if images is None else [calls]
    pairs = [_too_many(group, images or 1) for group in groups]
    return sum(duplicates for duplicates, _ in pairs), sum(maybe for _, maybe in pairs)


def _too_many(calls: Iterable[Call], wanted: int) -> tuple[int, int]:
    there = doubtful = duplicates = maybe = 0
    for call in calls:
        if call.billed and there >= wanted:
            duplicates += 1
        elif call.billed and there + doubtful >= wanted:
            maybe += 1
        there += _gave_image(call)
        doubtful += _is_in_doubt(call)
    return duplicates, maybe


def _waited(calls: Iterable[Call]) -> float:
    """Seconds from the answer of each call that gave no image to the next call for the same."""
    waits = [
        (later.at - call.at).total_seconds() - call.seconds
        for group in _by_request(calls)
        for call, later in pairwise(group)
        if not _gave_image(call)
    ]
    return round(sum(max(wait, 0.0) for wait in waits), 3)


def _note(calls: int, struck: int, *, unfetched: bool) -> str:
    if not calls:
        return "the flow never called the gateway for an image"
    if not struck:
        return "the fault struck no call"
    return "the image came as an address on 127.0.0.1, which was not fetched" if unfetched else ""


# ── how it ended ─────────────────────────────────────────────────────────────


def _said_of(result: object) -> tuple[str, str]:
    """How a flow ended, and the first words of the reason if it ended badly."""
    if isinstance(result, BaseException):
        return f"raised {type(result).__name__}", _first_words(result)
    outcomes = [part for part in parts_of(result) if isinstance(part, ImageOutcome)]
    if not outcomes:
        return f"returned {_what(result)}", ""
    statuses = Counter(sorted((outcome.status for outcome in outcomes), key=OUTCOME_STATUSES.index))
    reasons = [outcome.reason for outcome in outcomes if not outcome.ok]
    return _listed(statuses), _first_words(reasons[0]) if reasons else ""


def _what(result: object) -> str:
    if isinstance(result, (list, tuple)):
        return _listed(Counter(type(item).__name__ for item in result)) or f"an empty {type(result).__name__}"
    return "None" if result is None else type(result).__name__


def _listed(counts: Counter[Any]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counts.items())


def _first_words(said: object) -> str:
    try:
        return excerpt(without_secrets(str(said)), _WORDS)
    except Exception:  # noqa: BLE001 - an error that cannot say what it is
        return ""
