"""The command `n1n-prefect`: one module for each subcommand.

A module says `NAME`, `HELP`, `add_arguments(parser)` and `run(args) -> int`, and imports
what is heavy inside `run`.
"""

import argparse
from collections.abc import Sequence

from n1n_prefect.__about__ import __version__
from n1n_prefect.cli import batch, demo, doctor, estimate, faults, gateway, link, models, prune, resume, setup
from n1n_prefect.cli.failures import exit_code_of

COMMANDS = (demo, batch, estimate, gateway, faults, models, setup, doctor, link, resume, prune)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand and gives the exit code: 0 done, 1 failed, 2 called wrongly.

    Args:
        argv: The arguments; those of the process if not given.
    """
    parser = _parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as exc:  # argparse has said what is wrong, or shown its help
        return int(exc.code or 0)
    return exit_code_of(args.command, lambda: int(args.run(args)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="n1n-prefect", description="Images from the n1n gateway in Prefect flows.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"n1n-prefect {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        own = commands.add_parser(command.NAME, help=command.HELP, description=command.HELP, allow_abbrev=False)
        command.add_arguments(own)
        own.set_defaults(run=command.run)
    return parser
