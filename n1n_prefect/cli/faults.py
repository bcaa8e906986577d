"""`n1n-prefect faults`: whether a flow of one's own pays twice or loses an image when the gateway fails."""

import argparse
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from n1n_prefect.cli.demo import local_s3, prefect_settings
from n1n_prefect.cli.failures import exit_code_of, one_line

if TYPE_CHECKING:
    from n1n_prefect import N1nCredentials, S3Location
    from n1n_prefect.testing import FaultRow

NAME = "faults"
HELP = "Run a flow of yours under each fault of a local gateway: is anything paid twice, or lost? No money is spent."
_PROMPTS = ("A red fox in the snow", "A blue kingfisher")
_OWN_WAIT_SECONDS = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's own arguments."""
    parser.add_argument(
        "flow", metavar="FILE.py:FLOW", type=_entrypoint,
        help="a flow that takes n1n credentials, and an S3Location if it uploads: it is given local ones",
    )  # fmt: skip
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="for the flow's prompt or prompts; may be repeated",
    )
    parser.add_argument(
        "--set", action="append", default=[], type=_setting, metavar="NAME=JSON",
        help="another parameter of the flow, as a deployment would have it",
    )  # fmt: skip
    parser.add_argument(
        "--fault", action="append", default=[], metavar="NAME[:TIMES]",
        help="only these faults, of those that `n1n-prefect gateway --list-faults` lists; a synchronous flow takes "
        "1 to 2 seconds a fault, and there are a hundred",
    )  # fmt: skip


def _entrypoint(text: str) -> str:
    file, colon, flow = text.rpartition(":")
    if not (colon and flow.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text!r} names no flow; give FILE.py:FLOW, such as flows/mine.py:my_flow")
    if not Path(file).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {file!r}")
    return text


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        wrong = f"{value!r} is no JSON; write texts as {name}='\"a text\"'" if equals else "write NAME=JSON"
        raise argparse.ArgumentTypeError(f"{text!r}: {wrong}") from None


def run(args: argparse.Namespace) -> int:
    """Runs it in a process of its own, since Prefect reads its settings when it is first imported."""
    from n1n_prefect.testing import Faults

    try:
        Faults().plan(args.fault)
    except ValueError as exc:
        print(f"n1n-prefect {NAME}: {exc}", file=sys.stderr)
        return 2
    asked = json.dumps([args.flow, args.prompt, dict(args.set), args.fault])
    script = "import sys; from n1n_prefect.cli import faults; sys.exit(faults.main(sys.argv[1]))"
    with TemporaryDirectory(prefix="n1n-prefect-faults-") as home:
        # A Prefect of its own: a hundred flow runs and their images are nothing to leave in anybody's.
        environment = {name: value for name, value in os.environ.items() if not _is_of_prefect(name)}
        environment |= prefect_settings(Path(home))
        command = [sys.executable, "-c", script, asked]
        return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - our own module


def _is_of_prefect(name: str) -> bool:
    return name.startswith("PREFECT_") and not name.startswith("PREFECT_INTEGRATIONS_N1N_")


def main(asked: str) -> int:
    """Shows the rows as they come, and gives the exit code: 1 if something was paid twice or lost, or nothing shown."""
    return exit_code_of(NAME, lambda: _table(*json.loads(asked)))


def _table(entrypoint: str, prompts: list[str], parameters: dict[str, Any], faults: list[str]) -> int:
    from n1n_prefect.testing import FAULTS, FaultMatrix, run_fault_matrix

    _wait_briefly()
    with ExitStack() as stack:
        trial = _Trial(_loaded(entrypoint), prompts or list(_PROMPTS), parameters, stack)
        print("Starting a temporary Prefect server; this takes up to half a minute.\n", flush=True)
        rows: list[FaultRow] = []
        for fault in faults or FAULTS:
            rows += run_fault_matrix(trial.run, faults=[fault], kept=trial.kept).rows
            lines = FaultMatrix(tuple(rows[-1:])).to_markdown().splitlines()
            print("\n".join(lines if len(rows) == 1 else lines[-1:]), flush=True)
    return _verdict(FaultMatrix(tuple(rows)))


def _verdict(matrix: Any) -> int:
    try:
        matrix.assert_paid_once()
    except AssertionError as exc:
        print(f"\n{exc}")
        return 1
    print("\nNothing was paid twice that was known, and nothing was lost.")
    return 0


def _wait_briefly() -> None:
    """Shortens the tasks' own waits before they try again; what the gateway asks is waited for as ever."""
    from n1n_prefect import HintedDelays, tasks

    for task in vars(tasks).values():
        if isinstance(getattr(task, "retry_delay_seconds", None), HintedDelays):
            task.retry_delay_seconds = HintedDelays([_OWN_WAIT_SECONDS])


def _loaded(entrypoint: str) -> Any:
    from prefect.flows import load_flow_from_entrypoint

    from n1n_prefect import InvalidRequestError

    try:
        return load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    except Exception as exc:
        raise InvalidRequestError(f"The flow {entrypoint!r} could not be loaded: {one_line(exc)}") from exc


# ── one run of it ────────────────────────────────────────────────────────────


class _Trial:
    """A flow with what it is given: each run gets a bucket of its own."""

    def __init__(self, flow: Any, prompts: list[str], parameters: Mapping[str, Any], stack: ExitStack) -> None:
        from n1n_prefect import InvalidRequestError, N1nCredentials, S3Location

        self._flow = flow
        self._credentials = _parameters_of(flow, N1nCredentials, ("credentials",))
        if not self._credentials:
            raise InvalidRequestError(
                f"The flow {flow.name!r} takes no N1nCredentials, so it cannot be given local ones."
            )
        self._places = _parameters_of(flow, S3Location, ("destination", "source"))
        self._given = _filled(flow, prompts, parameters, [*self._credentials, *self._places])
        self._endpoint = stack.enter_context(local_s3()) if self._places else ""
        self._buckets = 0
        self._location: S3Location | None = None

    def run(self, credentials: "N1nCredentials") -> object:
        """The flow's result, or what must be awaited for it."""
        self._location = self._fresh_location() if self._places else None
        blocks = dict.fromkeys(self._credentials, credentials) | dict.fromkeys(self._places, self._location)
        return self._flow(**self._given, **blocks)

    def kept(self) -> Iterator[bytes]:
        """The objects that the last run has put into its bucket."""
        if self._location is not None:
            client, bucket = self._location.get_client(), self._location.bucket
            for found in client.list_objects_v2(Bucket=bucket).get("Contents", []):
                yield client.get_object(Bucket=bucket, Key=found["Key"])["Body"].read()

    def _fresh_location(self) -> "S3Location":
        from pydantic import SecretStr

        from n1n_prefect import S3Location

        self._buckets += 1
        location = S3Location(
            bucket=f"n1n-faults-{self._buckets}",
            endpoint_url=self._endpoint,
            region_name="us-east-1",
            addressing_style="path",
            aws_access_key_id="faults",
            aws_secret_access_key=SecretStr("faults"),
        )
        location.get_client().create_bucket(Bucket=location.bucket)
        return location


def _parameters_of(flow: Any, kind: type, names: Sequence[str]) -> list[str]:
    """The parameters that take such a block, by their type, else by their names."""
    hints = get_type_hints(flow.fn)
    typed = [name for name, hint in hints.items() if name != "return" and (hint is kind or kind in get_args(hint))]
    return typed or [name for name in names if name in inspect.signature(flow.fn).parameters and name not in hints]


def _filled(flow: Any, prompts: list[str], parameters: Mapping[str, Any], blocks: Sequence[str]) -> dict[str, Any]:
    """The flow's parameters but for the blocks."""
    from n1n_prefect import InvalidRequestError

    known = inspect.signature(flow.fn).parameters
    usual = {"prompts": prompts, "prompt": prompts[0], "requests": prompts, "request": prompts[0]}
    given = {name: value for name, value in usual.items() if name in known} | dict(parameters)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InvalidRequestError(f"The flow {flow.name!r} has no {', '.join(unknown)}; it takes {', '.join(known)}.")
    needed = [name for name, parameter in known.items() if parameter.default is parameter.empty]
    missing = [name for name in needed if name not in given and name not in blocks]
    if missing:
        raise InvalidRequestError(f"The flow {flow.name!r} needs {', '.join(missing)}; give it with --set NAME=JSON.")
    return given
