"""All runs that crashed, scheduled again under their own ids; a run that crashes each time is left to a person."""

import argparse
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from n1n_prefect.cli.failures import failures, one_line
from n1n_prefect.cli.resume import deployment_of, refuse_a_subflow, schedule, told
from n1n_prefect.cli.saved_blocks import SavedBlocks
from n1n_prefect.errors import InvalidRequestError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, StateType

_PAGE = 200


def resume_all(client: "SyncPrefectClient", args: argparse.Namespace) -> int:
    """Schedules each run that crashed, and says of each what became of it; 1 if any was left out."""
    from prefect.client.schemas.objects import StateType

    since = datetime.now(timezone.utc) - timedelta(seconds=args.since)
    runs = [*_found(client, StateType.CRASHED, since, args.limit)]
    if args.silent is not None and len(runs) < args.limit:
        runs += _found(client, StateType.RUNNING, datetime.min.replace(tzinfo=timezone.utc), args.limit - len(runs))
    resumed = sum(_resumed(client, flow_run, args) for flow_run in runs)
    more = f" There may be more than --limit {args.limit}; run this again." if len(runs) == args.limit else ""
    print(f"{resumed} resumed, {len(runs) - resumed} left out.{more}")
    return 0 if resumed == len(runs) else 1


def _found(client: "SyncPrefectClient", kind: "StateType", since: datetime, limit: int) -> "Iterator[FlowRun]":
    """Runs that are in a state since then at the earliest, the latest first."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.sorting import FlowRunSort

    matching = filters.FlowRunFilter(state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[kind])))
    latest = FlowRunSort.EXPECTED_START_TIME_DESC
    offset = 0
    while page := client.read_flow_runs(flow_run_filter=matching, sort=latest, limit=_PAGE, offset=offset):
        fitting = [run for run in page if run.state and run.state.timestamp >= since][:limit]
        yield from fitting
        offset, limit = offset + len(page), limit - len(fitting)
        if not limit:
            return


def _resumed(client: "SyncPrefectClient", flow_run: "FlowRun", args: argparse.Namespace) -> bool:
    print(f"\nFlow run {flow_run.name!r} ({flow_run.id}) {told(flow_run.state)}", flush=True)
    try:
        _resume(client, flow_run, args)
    except failures() as exc:
        print(f"Left out: {one_line(exc)}", flush=True)
        return False
    return True


def _resume(client: "SyncPrefectClient", flow_run: "FlowRun", args: argparse.Namespace) -> None:
    refuse_a_subflow(client, flow_run)
    deployment = deployment_of(client, flow_run)
    if deployment is None:
        raise InvalidRequestError(
            f"It belongs to no deployment; run it here: n1n-prefect resume {flow_run.id} --entrypoint FILE.py:FLOW"
        )
    if flow_run.run_count >= args.most_runs:
        raise InvalidRequestError(
            f"It has run {flow_run.run_count} times and would crash again, for all that is known. See why in its log; "
            f"then: n1n-prefect resume {flow_run.id}, or --most-runs {flow_run.run_count + 1}"
        )
    if flow_run.state and flow_run.state.is_running():
        _refuse_one_that_may_be_alive(client, flow_run, args.silent)
    parameters = SavedBlocks(client, may_pay_again=False).put_into(flow_run.parameters, {})
    _refuse_one_that_moved_on(client, flow_run)
    schedule(client, flow_run, parameters, deployment)


def _refuse_one_that_may_be_alive(client: "SyncPrefectClient", flow_run: "FlowRun", silent_seconds: int) -> None:
    last = _last_heartbeat(client, flow_run)
    if last is None:
        raise InvalidRequestError(
            "It gives no heartbeats, so nobody can tell whether its process is alive. If you are sure that it is not: "
            f"n1n-prefect resume {flow_run.id} --force"
        )
    ago = (datetime.now(timezone.utc) - last).total_seconds()
    if ago < silent_seconds:
        raise InvalidRequestError(f"Its last heartbeat is {ago:.0f} s old, so it is taken for alive.")


def _last_heartbeat(client: "SyncPrefectClient", flow_run: "FlowRun") -> datetime | None:
    from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

    beats = EventFilter(
        event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{flow_run.id}"]),
    )
    found = client.read_events(beats, limit=1).events
    return found[0].occurred if found else None


def _refuse_one_that_moved_on(client: "SyncPrefectClient", flow_run: "FlowRun") -> None:
    now = client.read_flow_run(flow_run.id)
    if now.state_id != flow_run.state_id:
        raise InvalidRequestError(f"By now it {told(now.state)}, so somebody else has taken care of it.")
