"""`n1n-prefect setup`: makes a Prefect server one that our flows run on; safe to run again."""

import argparse
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from n1n_prefect.cli import arguments
from n1n_prefect.cli.automations import DEFAULT_SILENCE_SECONDS, PREFIX
from n1n_prefect.cli.failures import failures, one_line
from n1n_prefect.errors import InvalidRequestError

if TYPE_CHECKING:
    from n1n_prefect.cli.changes import Change, Workspace

NAME = "setup"
HELP = (
    "Set a Prefect server up: block types, and as you ask blocks from the environment, a concurrency limit, a work "
    "pool, deployments and automations. Run again, it changes only what is not as asked."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's own arguments."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace values of saved blocks, and automations that were changed by hand",
    )
    parser.add_argument(
        "--credentials",
        type=arguments.block_name,
        metavar="NAME",
        help="save this n1n Credentials block from N1N_API_KEY, N1N_BASE_URL and N1N_CONCURRENCY_LIMIT",
    )
    parser.add_argument(
        "--location", type=arguments.block_name, metavar="NAME",
        help="save this S3 Image Location block from N1N_S3_BUCKET, N1N_S3_PREFIX, N1N_S3_ENDPOINT_URL and "
        "N1N_S3_REGION",
    )  # fmt: skip
    parser.add_argument(
        "--location-from", type=arguments.saved_block, metavar="TYPE/NAME",
        help="make the location of a saved s3-bucket, aws-credentials or minio-credentials block, so that no secret "
        "is entered again; it is saved under --location, or as 'default'",
    )  # fmt: skip
    parser.add_argument(
        "--concurrency-limit", type=arguments.limit, metavar="NAME=SLOTS",
        help="a global concurrency limit, for the block's concurrency_limit",
    )  # fmt: skip
    parser.add_argument("--work-pool", metavar="NAME", help="a work pool of type process")
    parser.add_argument(
        "--deploy", nargs="?", const="prefect.yaml", type=arguments.folder, metavar="FILE",
        help="make all deployments of this file, prefect.yaml if none is named",
    )  # fmt: skip
    parser.add_argument("--automations", action="store_true", help=f"the automations whose names start with '{PREFIX}'")
    parser.add_argument(
        "--notify", type=arguments.saved_block, metavar="TYPE/NAME",
        help="the saved notification block through which automations tell people, such as slack-webhook/team",
    )  # fmt: skip
    parser.add_argument(
        "--silent-after", type=arguments.silence, default=DEFAULT_SILENCE_SECONDS, metavar="SECONDS",
        help="how long a run may give no heartbeat before an automation sets it to Crashed; default "
        f"{DEFAULT_SILENCE_SECONDS}",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Sets the server up and says each change; 1 if something is not as asked."""
    from n1n_prefect.cli import api
    from n1n_prefect.cli.changes import Workspace

    with api.reached() as client:
        print(f"Prefect at {api.address()}" + ("; a dry run: nothing is changed" if args.dry_run else ""), flush=True)
        workspace = Workspace(client, is_dry_run=args.dry_run, may_overwrite=args.overwrite)
        changes = [change for what, step in _steps(args) for change in _said(what, step, workspace)]
    if args.automations and not args.notify and any(change.did == "left out" for change in changes):
        print("Save a notification block in the UI, and run this again with --notify TYPE/NAME.")
    return 1 if any(change.is_wanting for change in changes) else 0


_Step = Callable[["Workspace"], "Iterator[Change]"]


def _said(what: str, step: _Step, workspace: "Workspace") -> "Iterator[Change]":
    """What a step did, each change printed; a failure is said, and the other steps go on."""
    from n1n_prefect.cli.changes import Change

    def changes() -> "Iterator[Change]":
        try:
            yield from step(workspace)
        except failures() as exc:
            yield Change(what, "failed", one_line(exc))

    for change in changes():
        print(change.line(is_dry_run=workspace.is_dry_run), flush=True)
        yield change


def _steps(args: argparse.Namespace) -> Iterator[tuple[str, _Step]]:
    """What is asked for, in the order in which one thing needs another."""
    yield "block types", _block_types
    if args.concurrency_limit:
        yield "concurrency limit", lambda workspace: _limit(workspace, *args.concurrency_limit)
    if args.credentials:
        yield f"block n1n-credentials/{args.credentials}", lambda workspace: _credentials(workspace, args.credentials)
    if args.location or args.location_from:
        name = args.location or "default"
        yield f"block s3-image-location/{name}", lambda workspace: _location(workspace, name, args.location_from)
    if args.work_pool:
        yield f"work pool {args.work_pool}", lambda workspace: _work_pool(workspace, args.work_pool)
    if args.deploy:
        yield f"deployments of {args.deploy}", lambda workspace: _deployments(workspace, args)
    if args.automations:
        yield "automations", lambda workspace: _automations(workspace, args)


def _block_types(workspace: "Workspace") -> "Iterator[Change]":
    from n1n_prefect.cli import documents

    yield from (documents.register(workspace, block) for block in documents.OURS)


def _credentials(workspace: "Workspace", name: str) -> "Iterator[Change]":
    from n1n_prefect import N1nCredentials
    from n1n_prefect.cli import documents
    from n1n_prefect.environment import credentials_fields

    yield documents.save(workspace, N1nCredentials, name, credentials_fields())


def _location(workspace: "Workspace", name: str, source: tuple[str, str] | None) -> "Iterator[Change]":
    from n1n_prefect import S3Location
    from n1n_prefect.cli import documents
    from n1n_prefect.environment import location_fields, location_overrides

    if source is None:
        fields: dict[str, Any] = location_fields()
    else:
        block = documents.loaded(workspace.client, *source)
        given = location_overrides()
        if "bucket" not in given and not hasattr(block, "bucket_name") and not hasattr(block, "bucket"):
            raise InvalidRequestError(f"{'/'.join(source)} names no bucket; set N1N_S3_BUCKET and run this again.")
        made = S3Location.from_block(block, **given)
        fields = {field: getattr(made, field) for field in sorted(made.model_fields_set & {*S3Location.model_fields})}
    yield documents.save(workspace, S3Location, name, fields)


def _limit(workspace: "Workspace", name: str, slots: int) -> "Iterator[Change]":
    from n1n_prefect.cli import work

    yield work.limit(workspace, name, slots)


def _work_pool(workspace: "Workspace", name: str) -> "Iterator[Change]":
    from n1n_prefect.cli import work

    yield work.pool(workspace, name)


def _deployments(workspace: "Workspace", args: argparse.Namespace) -> "Iterator[Change]":
    from n1n_prefect.cli import deploying

    yield from deploying.deploy(workspace, args.deploy)


def _automations(workspace: "Workspace", args: argparse.Namespace) -> "Iterator[Change]":
    from n1n_prefect.cli import automating, documents
    from n1n_prefect.cli.automations import samples

    notify = documents.document_id(workspace.client, *args.notify) if args.notify else None
    for sample in samples(timedelta(seconds=args.silent_after)):
        yield automating.apply(workspace, sample, notify)
