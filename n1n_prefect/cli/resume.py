"""`n1n-prefect resume`: goes on with a flow run that was stopped, under its own id.

Under the same id the journal finds what the run has paid for; a new run would pay anew. A run
of a deployment is scheduled, for a worker or a serving process to take. Any other is run here.
With `--crashed` all runs of deployments that crashed are scheduled.
"""

import argparse
import asyncio
import re
import sys
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast

from n1n_prefect.cli import api, arguments
from n1n_prefect.cli.failures import one_line
from n1n_prefect.cli.saved_blocks import SavedBlocks
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.masking import without_secrets

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.client.schemas.responses import DeploymentResponse

    from n1n_prefect.staging import Storage

NAME = "resume"
HELP = (
    "Go on with a flow run that failed, crashed, was cancelled or killed, under its own id, so that nothing it paid "
    "for is paid again."
)
_PAID_KEY = re.compile(r"n1n-([0-9a-f]{64})$")


class _CalledWronglyError(Exception):
    """The arguments do not go with this run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's own arguments."""
    parser.add_argument(
        "flow_run", nargs="?", metavar="FLOW_RUN", help="id of the flow run, or its name if no other has it"
    )
    _add_arguments_for_all(parser)
    parser.add_argument(
        "--entrypoint", type=arguments.entrypoint, metavar="FILE.py:FLOW",
        help="where the flow's code is; needed for a run without a deployment, which is run here",
    )  # fmt: skip
    parser.add_argument(
        "--block", type=arguments.block_for_parameter, action="append", default=[], metavar="PARAMETER=TYPE/NAME",
        help="the saved block for a parameter, where the run's own was never saved; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--force", action="store_true", help="whatever the run's state says; be sure that no process of it is alive"
    )
    parser.add_argument(
        "--pay-again", action="store_true", help="also where the run's earlier payments are not found from here"
    )


def _add_arguments_for_all(parser: argparse.ArgumentParser) -> None:
    several = parser.add_argument_group("in place of FLOW_RUN")
    several.add_argument("--crashed", action="store_true", help="all runs of deployments that are Crashed")
    several.add_argument(
        "--since", type=arguments.past, default=86_400, metavar="AGE", help="crashed within this time; default 1d"
    )
    several.add_argument(
        "--limit", type=arguments.count, default=100, metavar="N", help="at most so many runs; default 100"
    )
    several.add_argument(
        "--most-runs", type=arguments.count, default=3, metavar="N",
        help="leave out a run that has run so often already; default 3",
    )  # fmt: skip
    several.add_argument(
        "--silent", type=arguments.silence, metavar="SECONDS",
        help="also runs that are still Running, and whose last heartbeat is older; let it be more than twice the "
        "workers' PREFECT_FLOWS_HEARTBEAT_FREQUENCY (180 s if not set)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Resumes the run, or all that crashed; 0 once it is scheduled, or has run here and is complete."""
    try:
        return _run(args)
    except _CalledWronglyError as exc:
        print(f"n1n-prefect resume: {exc}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    if (args.flow_run is not None) == args.crashed:
        raise _CalledWronglyError("Give FLOW_RUN, or --crashed for all that crashed.")
    # A run without a deployment may be in the database of the server that Prefect starts for a moment.
    is_shared = args.crashed or get_current_settings().api.url
    with api.reached() if is_shared else get_client(sync_client=True) as client:
        return _resume_all(client, args) if args.crashed else _resume(client, args)


def _resume_all(client: "SyncPrefectClient", args: argparse.Namespace) -> int:
    from n1n_prefect.cli.crashed import resume_all

    if args.entrypoint or args.block or args.force or args.pay_again:
        raise _CalledWronglyError("--entrypoint, --block, --force and --pay-again are for a single FLOW_RUN.")
    return resume_all(client, args)


def _resume(client: "SyncPrefectClient", args: argparse.Namespace) -> int:
    flow_run = _found(client, args.flow_run)
    print(f"Flow run {flow_run.name!r} ({flow_run.id}) {told(flow_run.state)}", flush=True)
    deployment = deployment_of(client, flow_run)
    if not deployment:
        refuse_a_subflow(client, flow_run)
    _refuse_a_state(client, flow_run, is_forced=args.force)
    if deployment and args.entrypoint:
        raise _CalledWronglyError(
            f"It belongs to deployment {deployment.name!r}, which runs it; leave out --entrypoint."
        )
    if not deployment and not args.entrypoint:
        raise _CalledWronglyError(
            "It belongs to no deployment; say where its code is: --entrypoint path/to/file.py:flow."
        )
    chosen = dict(args.block)
    if unknown := chosen.keys() - flow_run.parameters.keys():
        has = ", ".join(flow_run.parameters)
        raise _CalledWronglyError(f"The run has no parameter {min(unknown)!r}; it has {has or 'none'}.")
    parameters = SavedBlocks(client, may_pay_again=args.pay_again).put_into(flow_run.parameters, chosen)
    if deployment:
        return schedule(client, flow_run, parameters, deployment)
    flow = _loaded(client, flow_run, args.entrypoint, parameters)
    if not args.pay_again:
        _refuse_another_storage(client, flow_run, flow)
    return _run_here(client, flow_run, parameters, flow)


# ── which run ────────────────────────────────────────────────────────────────


def _found(client: "SyncPrefectClient", id_or_name: str) -> "FlowRun":
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
    from prefect.exceptions import ObjectNotFound

    with suppress(ValueError, ObjectNotFound):
        return client.read_flow_run(uuid.UUID(id_or_name))
    named = FlowRunFilter(name=FlowRunFilterName(any_=[id_or_name]))
    runs = client.read_flow_runs(flow_run_filter=named, limit=10)
    if not runs:
        raise InvalidRequestError(f"There is no flow run {id_or_name!r} at {client.api_url}; check PREFECT_API_URL.")
    if len(runs) > 1:
        each = "; ".join(f"{run.id} {told(run.state)}" for run in runs)
        raise InvalidRequestError(f"Several flow runs have the name {id_or_name!r}; give an id: {each}")
    return runs[0]


def told(state: "State[Any] | None") -> str:
    """A run's state in words."""
    if state is None:
        return "has no state"
    message = f": {without_secrets(' '.join(state.message.split()))[:300]}" if state.message else ""
    return f"is {state.name} since {_moment(state.timestamp)}{message}"


def _moment(time: datetime) -> str:
    return f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


# ── whether it may be resumed ────────────────────────────────────────────────

_TWO_AT_ONCE = (
    "If a process of it is still alive, another one under the same id would make the same calls at the same moment, "
    "and both would be paid."
)
_REFUSALS = {
    "COMPLETED": (
        "It is complete, so there is nothing to go on with; start a new run. To run it once more under its own id, "
        "which pays only for what is not in its journal, pass --force."
    ),
    "RUNNING": f"{_TWO_AT_ONCE} A run whose process was killed stays so for ever: if you are sure, pass --force.",
    "CANCELLING": f"{_TWO_AT_ONCE} If you are sure that its process has ended, pass --force.",
    "PENDING": (
        "A worker has taken it and is about to start it. If you are sure that this worker is gone, pass --force."
    ),
    "SCHEDULED": (
        "It waits for its time, for a worker, or for its own retry. If you are sure that no process of it is alive, "
        "or want it now, pass --force."
    ),
    "PAUSED": (
        "It waits for a person: press Resume on its page in the UI, or POST the answer to /flow_runs/ID/resume, as its "
        "log says. If you are sure that its process is gone, pass --force."
    ),
}


def _refuse_a_state(client: "SyncPrefectClient", flow_run: "FlowRun", *, is_forced: bool) -> None:
    state = flow_run.state.type.value if flow_run.state else ""
    if is_forced or state not in _REFUSALS:
        return
    last = _last_sign_of_life(client, flow_run) if state in ("RUNNING", "CANCELLING") else ""
    raise InvalidRequestError(f"{last}{_REFUSALS[state]}")


def _last_sign_of_life(client: "SyncPrefectClient", flow_run: "FlowRun") -> str:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import TaskRunSort

    this = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
    runs = client.read_task_runs(flow_run_filter=this, sort=TaskRunSort.EXPECTED_START_TIME_DESC, limit=1)
    return f"The task run that it started last, {runs[0].name!r}, {told(runs[0].state)}. " if runs else ""


def refuse_a_subflow(client: "SyncPrefectClient", flow_run: "FlowRun") -> None:
    """Refuses a run that is a part of another one.

    Raises:
        InvalidRequestError: It is; the message names the other.
    """
    if flow_run.parent_task_run_id is None:
        return
    parent = client.read_task_run(flow_run.parent_task_run_id).flow_run_id
    raise InvalidRequestError(f"It is a part of flow run {parent}; resume that one, and it goes on with this part too.")


def _refuse_another_storage(client: "SyncPrefectClient", flow_run: "FlowRun", flow: "Flow[..., Any]") -> None:
    """Refuses to run where the journal of the run is not."""
    from n1n_prefect import staging

    storage = _storage_of(flow)
    where = storage.describe(staging.PREFIX)["uri"]
    print(f"What it paid for is looked for in {where}", flush=True)
    key = _paid_key(client, flow_run)
    if key:
        is_here = storage.read(f"{staging.PREFIX}/journal/{key}/0.sent") is not None
    else:
        is_here = not isinstance(storage, staging.LocalStorage) or (storage.root / staging.PREFIX / "journal").is_dir()
    if not is_here and flow_run.run_count:
        raise InvalidRequestError(
            f"The journal of this run is not in {where}, so what it paid for would be paid again. Resume it on the "
            "machine, with the PREFECT_HOME and the PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK that it had; or, if it has "
            "paid for nothing yet, pass --pay-again."
        )


def _storage_of(flow: "Flow[..., Any]") -> "Storage":
    from prefect.results import get_result_store

    from n1n_prefect import staging

    store = cast(Any, get_result_store().update_for_flow(flow))
    return staging.storage_of(store.result_storage)


def _paid_key(client: "SyncPrefectClient", flow_run: "FlowRun") -> str:
    """The key of a request that the run has paid for, by where a task run left its result; empty if none tells."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType

    this = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[flow_run.id]))
    completed = filters.TaskRunFilterState(type=filters.TaskRunFilterStateType(any_=[StateType.COMPLETED]))
    done = client.read_task_runs(flow_run_filter=this, task_run_filter=filters.TaskRunFilter(state=completed))
    for task_run in done:
        found = _PAID_KEY.search(str(getattr(task_run.state and task_run.state.data, "storage_key", "")))
        if found:
            return found[1]
    return ""


# ── with a deployment ────────────────────────────────────────────────────────


def _prepare(client: "SyncPrefectClient", flow_run: "FlowRun", parameters: dict[str, Any]) -> None:
    """Stores the parameters and makes the run one that may start."""
    from prefect.client.schemas.responses import SetStateStatus
    from prefect.states import Scheduled

    now = client.read_flow_run(flow_run.id).state
    if now and flow_run.state and now.id != flow_run.state.id:
        raise InvalidRequestError(f"Meanwhile it {told(now)}: somebody else resumes it. Nothing was changed.")
    if parameters != flow_run.parameters:
        client.update_flow_run(flow_run.id, parameters=parameters)
    set_state = client.set_flow_run_state(flow_run.id, Scheduled(message="Resumed by n1n-prefect resume"), force=True)
    if set_state.status != SetStateStatus.ACCEPT:
        raise InvalidRequestError(f"The Prefect API does not let it start again: {set_state.details}")


def deployment_of(client: "SyncPrefectClient", flow_run: "FlowRun") -> "DeploymentResponse | None":
    """The deployment that a run belongs to, if there still is one."""
    from prefect.exceptions import ObjectNotFound

    with suppress(ObjectNotFound):  # it was deleted, and nothing would take the run
        return client.read_deployment(flow_run.deployment_id) if flow_run.deployment_id else None
    return None


def schedule(
    client: "SyncPrefectClient", flow_run: "FlowRun", parameters: dict[str, Any], deployment: "DeploymentResponse"
) -> int:
    """Schedules a run of a deployment under its own id, and says who will take it; gives 0.

    Raises:
        InvalidRequestError: The Prefect API does not let it start again.
    """
    from prefect.utilities.urls import url_for

    _prepare(client, flow_run, parameters)
    pool = deployment.work_pool_name
    taker = f"a worker of pool {pool!r}" if pool else "the process that serves it"
    print(f"It is scheduled; {taker} runs it, under the same id.")
    polled = deployment.last_polled
    if polled is None or datetime.now(timezone.utc) - polled > timedelta(minutes=2):
        heard = f"since {_moment(polled)}" if polled else "yet"
        remedy = f"`prefect worker start --pool {pool}`" if pool else f"serve deployment {deployment.name!r} again"
        print(f"None has asked for work {heard}, so it may have to be started: {remedy}.")
    print(f"Watch it: {url_for('flow-run', flow_run.id) or f'prefect flow-run logs {flow_run.id}'}")
    return 0


# ── here ─────────────────────────────────────────────────────────────────────


def _loaded(
    client: "SyncPrefectClient", flow_run: "FlowRun", entrypoint: str, parameters: dict[str, Any]
) -> "Flow[..., Any]":
    """The run's flow, which takes its parameters."""
    from prefect.flows import load_flow_from_entrypoint

    with _explained(f"The flow {entrypoint!r} cannot be loaded"):
        flow = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    name = client.read_flow(flow_run.flow_id).name
    if flow.name != name:
        raise InvalidRequestError(f"The run is one of flow {name!r}, and {entrypoint!r} is flow {flow.name!r}.")
    if flow.isgenerator:
        raise InvalidRequestError(f"Flow {name!r} is a generator; such a run can be resumed by its deployment only.")
    with _explained(f"The run's parameters do not go with flow {name!r} as it is now"):
        flow.validate_parameters(parameters)
    return flow


@contextmanager
def _explained(what: str) -> Generator[None, None, None]:
    try:
        yield
    except Exception as exc:
        why = exc.__cause__ or exc  # Prefect says that a script failed, and its cause says why
        raise InvalidRequestError(f"{what} ({type(why).__name__}: {one_line(why)}).") from exc


def _run_here(
    client: "SyncPrefectClient", flow_run: "FlowRun", parameters: dict[str, Any], flow: "Flow[..., Any]"
) -> int:
    from prefect.exceptions import ExternalSignal, PrefectSignal
    from prefect.flow_engine import run_flow

    _prepare(client, flow_run, parameters)
    print("It runs here, under the same id.", flush=True)
    flow_run = client.read_flow_run(flow_run.id)
    with suppress(PrefectSignal, ExternalSignal):  # paused, or ended from outside; its state says so
        running = run_flow(flow, flow_run=flow_run, return_type="state")
        if asyncio.iscoroutine(running):
            asyncio.run(running)
    state = client.read_flow_run(flow_run.id).state
    print(f"Flow run {flow_run.name!r} {told(state)}", flush=True)
    return 0 if state and state.is_completed() else 1
