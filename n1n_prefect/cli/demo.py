"""`n1n-prefect demo`: both example flows from words to S3, on local servers or on one's own."""

import argparse
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from n1n_prefect.cli import arguments
from n1n_prefect.cli.failures import exit_code_of

if TYPE_CHECKING:
    from n1n_prefect import ImageOutcome, N1nCredentials, S3Location

NAME = "demo"
HELP = "Run both example flows on a local gateway and a local S3, or with N1N_API_KEY and N1N_S3_BUCKET on yours."

PROMPTS = (
    "A lighthouse on a cliff at dusk, long exposure, calm sea",
    "A market stall full of oranges in morning light",
    "A portrait of a person whose likeness is protected",
)
INSTRUCTION = "Make it a snowy winter night and keep the composition"
_BUCKET = "n1n-demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's own arguments."""
    parser.add_argument(
        "--output", type=arguments.folder, default=Path("demo-output"), help="where images and runs are kept"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the demo in a process of its own, since Prefect reads its settings when it is first imported."""
    output = writable(args.output)
    environment = {"PREFECT_API_URL": "", **prefect_settings(output), **os.environ}
    if not environment["PREFECT_API_URL"]:
        del environment["PREFECT_API_URL"]
        print("Starting a temporary Prefect server; this takes up to half a minute.", flush=True)
    script = "import sys; from n1n_prefect.cli import demo; sys.exit(demo.main(sys.argv[1]))"
    command = [sys.executable, "-c", script, str(output)]
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - our own module


def writable(folder: Path) -> Path:
    """The folder's whole path; it is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return folder.resolve()
    except OSError as exc:
        raise OSError(f"{str(folder)!r} is no folder to write to ({exc.strerror}); give another --output.") from exc


def prefect_settings(output: Path) -> dict[str, str]:
    """What Prefect is to be told in the environment, so that it keeps all below a folder."""
    return {
        "PREFECT_HOME": str(output / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Logs go to the UI; what matters of them is printed below.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
    }


def main(folder: str) -> int:
    """Runs both flows and gives the exit code; a failure is one line on stderr."""
    return exit_code_of(NAME, lambda: _both_flows(Path(folder)))


def _both_flows(output: Path) -> int:
    """Says what was asked, what came, and where it is."""
    with ExitStack() as stack:
        credentials = stack.enter_context(_credentials())
        destination = stack.enter_context(_destination())
        drawn = _drawn(credentials, destination)
        _show("generated", "generate → validate → upload", drawn, destination, output)
        first = next((outcome.uploaded for outcome in drawn if outcome.uploaded), None)
        if first is None:
            raise RuntimeError("No image was uploaded, so there is none to edit; the reasons are above.")
        edited = _flow("edit_to_s3")([first.uri], INSTRUCTION, credentials, destination)
        _show("edited", "edit the first of them, check and upload it", _awaited(edited), destination, output)
    _say_what_next()
    return 0


def _drawn(credentials: "N1nCredentials", destination: "S3Location") -> "list[ImageOutcome]":
    prompts = list(PROMPTS if _is_local(credentials) else PROMPTS[:2])
    return _flow("generate_to_s3")(prompts, credentials, destination, aspect_ratio="16:9")


def _flow(name: str) -> Any:
    """An example flow, from the checkout or from the installed package."""
    from prefect.flows import load_flow_from_entrypoint

    package = Path(__file__).resolve().parents[1]
    folder = next(f for f in (package / "flows", package.parent / "flows") if (f / f"{name}.py").exists())
    return load_flow_from_entrypoint(f"{folder / name}.py:{name}")


def _awaited(result: Any) -> Any:
    import asyncio

    return asyncio.run(result)


# ── a gateway and a bucket ───────────────────────────────────────────────────


@contextmanager
def _credentials() -> "Generator[N1nCredentials]":
    from n1n_prefect import N1nCredentials
    from n1n_prefect.testing import LocalGateway

    if os.environ.get("N1N_API_KEY"):
        address = {"base_url": os.environ["N1N_BASE_URL"]} if os.environ.get("N1N_BASE_URL") else {}
        yield N1nCredentials(api_key=os.environ["N1N_API_KEY"], **address)  # pyright: ignore[reportArgumentType]
        return
    with LocalGateway() as gateway:
        gateway.faults.add("IMAGE_PROHIBITED_CONTENT", match="likeness is protected")
        print(f"Gateway: a local one at {gateway.base_url}; no money is spent. One prompt is refused on purpose.")
        yield N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url)  # pyright: ignore[reportArgumentType]


def _is_local(credentials: "N1nCredentials") -> bool:
    return credentials.base_url.startswith("http://127.0.0.1")


@contextmanager
def _destination() -> "Generator[S3Location]":
    from n1n_prefect import S3Location

    if os.environ.get("N1N_S3_BUCKET"):
        endpoint = os.environ.get("N1N_S3_ENDPOINT_URL", "")
        yield S3Location(bucket=os.environ["N1N_S3_BUCKET"], prefix="n1n-demo", endpoint_url=endpoint)
        return
    with local_location(_BUCKET, prefix="images") as location:
        print(f"S3: a local one at {location.endpoint_url}.")
        yield location


@contextmanager
def local_location(bucket: str, **fields: str) -> "Generator[S3Location]":
    """A new bucket on a moto server of our own, for as long as the block lasts.

    Args:
        bucket: Its name.
        fields: More of the location, such as `prefix`.
    """
    from n1n_prefect.blocks import S3Location

    with local_s3() as endpoint:
        location = S3Location(
            bucket=bucket,
            endpoint_url=endpoint,
            region_name="us-east-1",
            addressing_style="path",
            aws_access_key_id="local",
            aws_secret_access_key=secrets.token_hex(8),  # pyright: ignore[reportArgumentType]
            **fields,  # pyright: ignore[reportArgumentType]
        )
        location.get_client().create_bucket(Bucket=bucket)
        yield location


@contextmanager
def local_s3() -> Generator[str]:
    """A moto server on loopback, ended by its own process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        _wait_for(server, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(server: "subprocess.Popen[bytes]", port: int) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise OSError("The local S3 server did not start. Install it: pip install 'n1n-prefect[demo]'.")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise OSError("The local S3 server did not answer within a minute.")


# ── what is shown ────────────────────────────────────────────────────────────


def _show(step: str, title: str, outcomes: "list[ImageOutcome]", destination: "S3Location", output: Path) -> None:
    print(f"\n{title}")
    for number, outcome in enumerate(outcomes, 1):
        uploaded, image = outcome.uploaded, outcome.image
        if uploaded is None or image is None:
            print(f"  {outcome.status:10} asked {outcome.prompt_excerpt!r}\n             {outcome.reason}")
            continue
        file = output / f"{step}-{number}{Path(uploaded.key).suffix}"
        file.write_bytes(destination.read(uploaded.bucket, uploaded.key, max_bytes=64 * 1024**2))
        cost = "" if outcome.estimated_cost_usd is None else f", ${outcome.estimated_cost_usd:.4f}"
        print(
            f"  {outcome.status:10} asked {image.prompt_excerpt!r}, {image.aspect_ratio or 'shape of the input'}\n"
            f"             got {image.width}x{image.height} {image.media_type}, {image.size_bytes / 1e6:.1f} MB{cost}\n"
            f"             at {uploaded.uri}\n             copy {_near(file)}"
        )


def _near(file: Path) -> Path:
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def _say_what_next() -> None:
    print(
        f"""
See the runs and their contact sheets in the Prefect UI:
  PREFECT_HOME={_near(Path(os.environ["PREFECT_HOME"]))} {_near(Path(sys.executable).parent / "prefect")} server start
  then open http://127.0.0.1:4200/runs

Do the same with your key and bucket (AWS keys as boto3 finds them):
  N1N_API_KEY=sk-… N1N_S3_BUCKET=my-bucket make demo"""
    )
