"""A batch on a local gateway and a local S3, for `n1n-prefect batch --local`: the same flow, and nothing is paid."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from n1n_prefect.cli.demo import local_location, prefect_settings, writable
from n1n_prefect.cli.failures import exit_code_of
from n1n_prefect.errors import InvalidRequestError, N1nError
from n1n_prefect.masking import without_secrets

if TYPE_CHECKING:
    from n1n_prefect.blocks import N1nCredentials, S3Location

_BUCKET = "local"
_LATENCY_SECONDS = 0.5


def run(folder: Path, manifest: str, options: dict[str, Any]) -> int:
    """Runs it in a process of its own, since Prefect reads its settings when it is first imported.

    Args:
        folder: Where copies and the runs are kept.
        manifest: A local file.
        options: Parameters of the flow, as JSON has them.
    """
    if "://" in manifest:
        raise InvalidRequestError(f"{manifest!r} is not on this machine, and --local reads nothing else; give a path.")
    output = writable(folder)
    settings = {"PREFECT_API_URL": "", **prefect_settings(output), "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}
    environment = {**settings, **os.environ}
    if not environment["PREFECT_API_URL"]:
        del environment["PREFECT_API_URL"]
        print("Starting a temporary Prefect server; this takes up to half a minute.", flush=True)
    script = "import sys; from n1n_prefect.cli import local_batch; sys.exit(local_batch.main(sys.argv[1]))"
    command = [sys.executable, "-c", script, json.dumps([str(output), manifest, options])]
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - our own module


def main(asked: str) -> int:
    """Carries the batch out and gives the exit code; a failure is told on stderr."""
    return exit_code_of("batch", lambda: _on_local_servers(*json.loads(asked)))


def carried_out(
    manifest: str,
    credentials: "N1nCredentials",
    destination: "S3Location",
    source: "S3Location | None" = None,
    **options: Any,
) -> int:
    """Runs the flow, prints what came of it and gives the exit code."""
    from n1n_prefect.batch import batch_to_s3

    try:
        print(batch_to_s3(manifest, credentials, destination, source, **options))
    except N1nError as error:
        # In lines of their own: bad rows are told one by one.
        print(f"n1n-prefect batch: {without_secrets(str(error))}", file=sys.stderr)
        return 1
    return 0


def _on_local_servers(output: str, manifest: str, options: dict[str, Any]) -> int:
    with ExitStack() as stack:
        credentials, destination = (
            stack.enter_context(_credentials()),
            stack.enter_context(local_location(_BUCKET, key_template="{prefix}/{name}.{extension}")),
        )
        code = carried_out(manifest, credentials, destination, **options)
        count = _copy(destination, Path(output))
    if count:
        print(f"Copies of the {count:,} objects in the bucket are below {output}.")
    return code


@contextmanager
def _credentials() -> "Generator[N1nCredentials]":
    from n1n_prefect.blocks import N1nCredentials
    from n1n_prefect.testing import LocalGateway

    # Without a photograph's grain a thousand images are 30 MB.
    with LocalGateway(grain=False, latency_seconds=_LATENCY_SECONDS) as gateway:
        print(f"A local gateway at {gateway.base_url} draws, and no money is spent.")
        yield N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url)  # pyright: ignore[reportArgumentType]


def _copy(location: "S3Location", folder: Path) -> int:
    """Puts what is in the bucket into a folder, but for a batch's own bookkeeping; how many objects."""
    client, count = location.get_client(), 0
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=_BUCKET):
        for key in (found["Key"] for found in page.get("Contents", ())):
            path = folder / key
            if "/_batch/" in key or not path.resolve().is_relative_to(folder):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(_BUCKET, key, str(path))
            count += 1
    return count
