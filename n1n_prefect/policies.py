"""How Prefect treats the tasks: when it tries again, how long it waits, and what it need not run."""

import random
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

from prefect.cache_policies import CachePolicy, CompoundCachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.locking.filesystem import FileSystemLockManager
from prefect.locking.protocol import LockManager as PrefectLockManager
from prefect.tasks import Task
from prefect.transactions import IsolationLevel

from n1n_prefect.errors import InvalidRequestError, N1nError, StagingError
from n1n_prefect.images import ImageRequest, as_request
from n1n_prefect.locks import LockManager
from n1n_prefect.sources import as_sources, hash_of, request_key

RETRIES = 4
DELAYS = (2.0, 8.0, 30.0, 60.0)

# ── trying again ─────────────────────────────────────────────────────────────

_hints: dict[object, float] = {}


def worth_retrying(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Whether Prefect runs a task again: by the error's class, and after a timeout of the task's own.

    A plain function, since Prefect up to 3.8 silently takes any other callable for "never".
    """
    error = state.data
    if not isinstance(error, N1nError):
        return isinstance(error, TimeoutError)
    if error.is_transient and error.retry_after_seconds:
        _hints[task_run.id] = _jittered(error.retry_after_seconds)
    return error.is_transient


def _jittered(seconds: float) -> float:
    # Never less than the server asked; up to a tenth more, so that a herd spreads.
    return seconds + random.uniform(0, min(seconds * 0.1, 5.0))  # noqa: S311


class HintedDelays(list[float]):
    """Delays between retries that give way to the wait the server asked for.

    Give it as `retry_delay_seconds`, also in `with_options`: a plain list there loses the hint.
    It rests on Prefect asking the retry condition first and indexing the delays second.
    """

    def __getitem__(self, index: Any) -> Any:
        """The server's wait for the task run of this context, else the plain delay."""
        context = TaskRunContext.get()
        hint = _hints.pop(context.task_run.id, None) if context else None
        return super().__getitem__(index) if hint is None else hint


@dataclass(frozen=True)
class Attempt:
    """Which attempt of a piece of work this is, where one task run has many pieces and tries each again by itself."""

    number: int
    """From 1."""

    is_last: bool
    """Whether there will be no other, whatever happens to it."""

    @contextmanager
    def under_way(self) -> Generator[None]:
        """For what is done inside, this attempt stands in place of the task run's."""
        token = _attempt.set(self)
        try:
            yield
        finally:
            _attempt.reset(token)


_attempt: ContextVar[Attempt | None] = ContextVar("n1n_prefect_attempt", default=None)


def attempt_number() -> int:
    """Which attempt this is, from 1."""
    attempt, context = _attempt.get(), TaskRunContext.get()
    return attempt.number if attempt else max(context.task_run.run_count, 1) if context else 1


def is_last_attempt() -> bool:
    """Whether this will not be tried again, whatever happens to it."""
    attempt = _attempt.get()
    if attempt:
        return attempt.is_last
    context = TaskRunContext.get()
    return context is None or context.task_run.run_count > context.task.retries


# ── not running again ────────────────────────────────────────────────────────


@dataclass(init=False)
class PaidOnce(CachePolicy):
    """Skips a task whose image is known, before it runs.

    The journal is the authority on what was paid; this is a shortcut before it. It does no
    I/O and never raises: a request whose inputs carry no hash yet gets no key, and its body runs.

    Args:
        scope: `run` shares results within one flow run and its re-runs; any other name, such as
            `week-46`, shares them across runs and deployments, until the task's `cache_expiration`.
        options: Of every Prefect cache policy, such as `key_storage`. With a `lock_manager`, such as
            prefect-redis's `RedisLockManager`, one process at a time makes a call, also on several hosts.

    Raises:
        InvalidRequestError: The scope is no name, or the locks are of a kind that fails.
    """

    scope: str = "run"

    def __init__(self, scope: str = "run", **options: Any) -> None:
        # A dataclass would take its base's fields first, and a lone name for `key_storage`.
        if not isinstance(scope, str) or not scope.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRequestError(f"scope={scope!r} is no name; give 'run', or a text such as 'week-46'.")
        manager = options.get("lock_manager")
        if manager is not None and not isinstance(manager, PrefectLockManager):
            raise InvalidRequestError(
                f"lock_manager is of type {type(manager).__name__!r}, and no lock manager of Prefect's; give "
                "prefect_redis.RedisLockManager(…)."
            )
        if isinstance(manager, FileSystemLockManager):
            raise InvalidRequestError(
                "Prefect's FileSystemLockManager fails when two take a lock at once; use RedisLockManager instead."
            )
        if options.get("isolation_level") == IsolationLevel.SERIALIZABLE:
            raise InvalidRequestError(
                "PaidOnce does its own locking, and Prefect's SERIALIZABLE would hang beside it; leave isolation_level "
                "out. A lock_manager alone is enough."
            )
        super().__init__(**options)
        self.scope = scope

    def configure(self, key_storage: Any = None, lock_manager: Any = None, isolation_level: Any = None) -> "PaidOnce":
        """The same policy with other options, such as `lock_manager`; what is not given stays."""
        return PaidOnce(
            self.scope,
            key_storage=key_storage or self.key_storage,
            lock_manager=lock_manager or self.lock_manager,
            isolation_level=isolation_level or self.isolation_level,
        )

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> str | None:
        """The request's key in this scope, or None where it cannot be known without reading."""
        try:
            return _key_of(inputs, known_scope(self.scope, task_ctx))
        except Exception:  # noqa: BLE001 - an exception here would let the body run unprotected
            return None


def _key_of(inputs: Mapping[str, Any], scope: str | None) -> str | None:
    credentials = inputs["credentials"]
    options = {name: value for name, value in inputs.items() if name in _OPTIONS}
    request = as_request(inputs["prompt"], as_sources(inputs.get("images", ())), **options)
    hashes = [hash_of(source) for source in request.images]
    if scope is None or None in hashes:
        return None
    return "n1n-" + request_key(
        request,
        [found for found in hashes if found],
        base_url=credentials.base_url,
        account=credentials.account,
        scope=scope,
    )


_OPTIONS = frozenset(ImageRequest.__dataclass_fields__) - {"prompt", "images"}


def scope_of(policy: object) -> str:
    """The scope that a task's cache policy names; `run` for every other policy."""
    ours = _ours_in(policy)
    return ours.scope if ours else "run"


def _ours_in(policy: object) -> PaidOnce | None:
    policies: Sequence[object] = policy.policies if isinstance(policy, CompoundCachePolicy) else [policy]
    return next((found for found in policies if isinstance(found, PaidOnce)), None)


def lock_manager() -> LockManager | None:
    """Who keeps the locks of the task that runs now, by its policy."""
    context = TaskRunContext.get()
    ours = _ours_in(context.task.cache_policy) if context else None
    return ours.lock_manager if ours else None


def expiry() -> timedelta | None:
    """How long answers to the task that runs now are good for."""
    context = TaskRunContext.get()
    return context.task.cache_expiration if context else None


def known_scope(name: str, context: TaskRunContext | None) -> str | None:
    """The scope as it goes into the key, or None where it would take a question to the server."""
    if name != "run":
        return f"name:{name}"
    if context is None:
        return None
    flow_run_id = context.task_run.flow_run_id
    if flow_run_id is None:
        return f"task:{context.task_run.id}"
    flow = FlowRunContext.get()
    run = flow.flow_run if flow else None
    if run is not None and run.id == flow_run_id and run.parent_task_run_id is None:
        return f"run:{flow_run_id}"
    return f"run:{_roots[str(flow_run_id)]}" if str(flow_run_id) in _roots else None


_scope: ContextVar[str] = ContextVar("n1n_prefect_scope", default="")


@contextmanager
def scoped(name: str) -> Generator[None]:
    """What is paid for within is shared under this name, whatever the policy of the task says."""
    token = _scope.set(name)
    try:
        yield
    finally:
        _scope.reset(token)


_roots: dict[str, str] = {}


def current_scope(name: str = "") -> str:
    """The scope of the task that runs now, asking the server for the root flow run where it must.

    Args:
        name: In place of what the task's policy names.

    Outside a run nothing is shared unless the policy gives a name.
    """
    context = TaskRunContext.get()
    name = name or _scope.get() or (scope_of(context.task.cache_policy) if context else "run")
    known = known_scope(name, context)
    if known is not None:
        return known
    if context is None:
        return f"call:{random.getrandbits(128):032x}"
    flow_run_id = str(context.task_run.flow_run_id)
    _roots[flow_run_id] = _root_flow_run_id(flow_run_id)
    return f"run:{_roots[flow_run_id]}"


def _root_flow_run_id(flow_run_id: str) -> str:
    try:
        return _asked_for_root(flow_run_id)
    except Exception as exc:
        raise StagingError(
            f"The Prefect API did not say which flow run {flow_run_id!r} belongs to ({type(exc).__name__}: {exc}), "
            "and so whether this image is paid for is not known. Nothing was spent."
        ) from exc


@lru_cache(maxsize=1024)
def _asked_for_root(flow_run_id: str) -> str:
    """The flow run at the top: a subflow gets a new id when its parent is run again."""
    import uuid

    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        run = client.read_flow_run(uuid.UUID(flow_run_id))
        while run.parent_task_run_id is not None:
            parent = client.read_task_run(run.parent_task_run_id)
            if parent.flow_run_id is None:
                break
            run = client.read_flow_run(parent.flow_run_id)
    return str(run.id)
