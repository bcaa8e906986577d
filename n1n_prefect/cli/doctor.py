"""`n1n-prefect doctor`: what is wrong with a set-up, a line for each check, and the remedy."""

import argparse

from n1n_prefect.cli.findings import Check, Finding, as_json, findings, is_well

NAME = "doctor"
HELP = (
    "Say what is wrong with a set-up: packages, server, blocks, key, bucket, result storage, work pool, deployments, "
    "automations. Nothing is spent; small probe objects are put below the location's prefix and removed again."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's own arguments."""
    parser.add_argument("--credentials", default="default", metavar="NAME", help="the n1n Credentials block to look at")
    parser.add_argument("--location", default="default", metavar="NAME", help="the S3 Image Location block to look at")
    parser.add_argument("--work-pool", metavar="NAME", help="the work pool to look at, if there are several")
    parser.add_argument("--json", action="store_true", help="say it as JSON")


def run(args: argparse.Namespace) -> int:
    """Makes each check and says what it found; 1 if anything is wrong."""
    from n1n_prefect.cli.patient import Named, Patient

    found: list[Finding] = []
    for each in findings(_checks(), Patient(Named(args.credentials, args.location, args.work_pool))):
        found.append(each)
        if not args.json:
            print(each.line(), flush=True)
    if args.json:
        print(as_json(found))
    return 0 if is_well(found) else 1


def _checks() -> tuple[Check, ...]:
    from n1n_prefect.cli.gateway_checks import GATEWAY_CHECKS
    from n1n_prefect.cli.location_checks import LOCATION_CHECKS
    from n1n_prefect.cli.server_checks import LIMIT_CHECKS, PREFECT_CHECKS
    from n1n_prefect.cli.workspace_checks import WORKSPACE_CHECKS

    return (*PREFECT_CHECKS, *WORKSPACE_CHECKS, *GATEWAY_CHECKS, *LIMIT_CHECKS, *LOCATION_CHECKS)
