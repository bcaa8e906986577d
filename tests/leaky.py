"""Flows in which everything goes wrong that could show a secret, run in a process of its own.

The secrets come by saved blocks alone, as users give them, so that nothing but our code and
its libraries can show them.
"""

import os
import signal
import sys
import threading
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.logging import get_logger

from n1n_prefect import (
    N1nCredentials,
    S3Location,
    create_contact_sheet_artifact,
    edit_image,
    gather_outcomes,
    generate_image,
    image_to_s3,
    upload_image,
)
from n1n_prefect.errors import N1nError

SMALL: dict[str, Any] = {"model": "gemini-3.1-flash-image", "image_size": "512"}
ONCE = generate_image.with_options(retries=0, persist_result=True)


def told(what: Any) -> Any:
    """Logs a thing as people do who look for an error."""
    get_run_logger().info("%s %r %s", what, what, getattr(what, "__dict__", ""))
    return what


def broken_hook(task: Any, run: Any, state: Any) -> None:
    """Shows all that a hook has, and fails."""
    get_logger("prefect.hooks").error("%r %r %r", task, run, state)
    raise RuntimeError(f"{state!r} {state.data!r}")


@task(on_failure=[broken_hook], persist_result=True)
def with_its_client(credentials: N1nCredentials) -> None:
    """Fails with a live client among its locals and the block in its words."""
    with credentials.get_client() as client:
        raise RuntimeError(f"{client!r} {credentials!r} {credentials.model_dump()} {credentials.model_dump_json()}")


@flow
def against_the_gateway(credentials: N1nCredentials, prompts: list[str]) -> None:
    """One call for each prompt, whatever becomes of it; the gateway knows what to answer."""
    told(credentials)
    for prompt in prompts:
        told(ONCE(prompt, credentials=credentials, return_state=True, **SMALL).result(raise_on_failure=False))
    told(with_its_client(credentials, return_state=True))
    told(edit_image(prompts[0], "no-such.png", credentials=credentials, return_state=True))
    try:
        with credentials.get_client() as client:
            client.models()
    except N1nError as error:
        told(error)


@flow(persist_result=True)
def whole_flow_fails(credentials: N1nCredentials, prompt: str) -> str:
    """A flow whose own state holds the error."""
    return ONCE(prompt, credentials=credentials, **SMALL).uri


@flow
def to_the_store(credentials: N1nCredentials, prompt: str, locations: list[str]) -> None:
    """An image into each of the saved locations, and inputs out of the first."""
    image = ONCE(prompt, credentials=credentials, **SMALL)
    outcomes: list[Any] = []
    for name in locations:
        location = told(S3Location.load(name))
        once = upload_image.with_options(retries=0, persist_result=True)
        told(once(image, destination=location, return_state=True).result(raise_on_failure=False))
        both = image_to_s3.submit(prompt, credentials=credentials, destination=location, name="fox", **SMALL)
        outcomes += [told(outcome) for outcome in gather_outcomes([both])]
    source = S3Location.load(locations[0])
    for address in os.environ["LEAKY_READS"].split():  # a flow's parameters are stored as they are given
        told(edit_image(prompt, address, credentials=credentials, source=source, return_state=True))
    create_contact_sheet_artifact(outcomes, key="leaky")


@flow
def dies_in_the_client(credentials: N1nCredentials, prompt: str) -> None:
    """A call that never ends, in a process that is told to."""
    threading.Timer(3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    ONCE(prompt, credentials=credentials, **SMALL)


def with_spans_on_the_console() -> None:
    """OpenTelemetry as its beginners set it up."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    trace.set_tracer_provider(provider)


def main(scenario: str, block: str, *words: str) -> None:
    """Runs a scenario with the saved credentials; its failure is what it is about."""
    with_spans_on_the_console()
    credentials = N1nCredentials.load(block)
    match scenario:
        case "gateway":
            against_the_gateway(credentials, list(words), return_state=True)
            whole_flow_fails(credentials, words[0])
        case "store":
            to_the_store(credentials, words[0], list(words[1:]))
        case _:
            dies_in_the_client(credentials, words[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
