"""Whether what is paid for is kept where the next worker finds it."""

from functools import lru_cache
from threading import Lock
from uuid import UUID

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext

from n1n_prefect.errors import StagingError
from n1n_prefect.journal import Storage
from n1n_prefect.run_log import get_logger
from n1n_prefect.settings import settings
from n1n_prefect.staging import LocalStorage

SHARES_ITS_DISK = ("process",)
"""Types of work pools whose runs usually stay on one machine, and find there what an earlier run left."""

_lock = Lock()
_warned: set[UUID] = set()


def require_shared(storage: Storage) -> None:
    """Warns once a run, or refuses, where images would be kept on a disk that the next worker does not see.

    Raises:
        StagingError: The setting `on_unshared_storage` says `fail`; nothing was spent.
    """
    what = settings().on_unshared_storage
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if what == "allow" or run is None or not run.work_pool_name or not isinstance(storage, LocalStorage):
        return
    kind = _type_of(run.work_pool_name)
    if kind is None or kind in SHARES_ITS_DISK:
        return
    message = _message(storage, run, kind)
    if what == "fail":
        raise StagingError(f"{message} Nothing was spent.", is_transient=False)
    with _lock:
        is_new = run.id not in _warned
        _warned.add(run.id)
    if is_new:
        get_logger().warning(message)


def _message(storage: LocalStorage, run: FlowRun, kind: str) -> str:
    return (
        f"Images and the journal of what was paid are kept below {storage.root}, on this machine alone, and runs of "
        f"the {kind} work pool {run.work_pool_name!r} share no disk: a re-run elsewhere would pay again. Set "
        "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK, or result_storage on the flow, to a storage that all workers share, "
        "such as an S3Bucket; or PREFECT_INTEGRATIONS_N1N_ON_UNSHARED_STORAGE=allow if that folder is a shared one."
    )


@lru_cache(maxsize=64)
def _type_of(work_pool: str) -> str | None:
    """The work pool's type, or None where the Prefect API does not tell."""
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            return client.read_work_pool(work_pool).type
    except Exception:  # noqa: BLE001 - a warning that cannot be given must not end the run
        return None
