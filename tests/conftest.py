"""Fixtures that several test modules ask for, and an environment that is nobody's.

Prefect reads its settings when it is first imported, so the environment is set before.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

_HOME = tempfile.mkdtemp(prefix="n1n-prefect-tests-")
for _name in list(os.environ):
    if _name.startswith(("PREFECT_", "AWS_", "N1N_")) or _name.lower().endswith("_proxy"):
        del os.environ[_name]
os.environ |= {
    "PREFECT_HOME": _HOME,
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "DO_NOT_TRACK": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

pytest_plugins = [
    "n1n_prefect.testing.plugin",
    "tests.s3_servers",
    "tests.redis_server",
    "tests.staged_images",
    "tests.prefect_server",
    "tests.open_telemetry",
    "tests.e2e.workspace",
]


def _has_own_server(item: object) -> bool:
    return bool({"prefect_server", "setup_server"} & {*getattr(item, "fixturenames", ())})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks as slow whatever asks for a server process of its own."""
    for item in items:
        if _has_own_server(item):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def events_go_to_the_server_of_the_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Prefect's worker for events stays with the server that it met first, and would take later ones there."""
    if not _has_own_server(request.node):
        yield
        return
    _drain_events()
    yield
    _drain_events()


def _drain_events() -> None:
    from prefect.events.worker import EventsWorker

    try:
        asyncio.get_running_loop()  # a browser's; such tests emit nothing from here
    except RuntimeError:
        EventsWorker.drain_all(timeout=30)


def pytest_unconfigure() -> None:
    """Leaves nothing behind."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[None]:
    """A Prefect API for the tests that run through the real engine; it takes a while to start."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield
