"""Fixtures that several test modules ask for; none is automatic but the quiet ones."""

import os
from collections.abc import Iterator

import pytest

pytest_plugins = ["n1n_prefect.testing.plugin", "tests.s3_servers"]


@pytest.fixture(autouse=True, scope="session")
def quiet_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the user's own Prefect or AWS set-up reaches the tests."""
    patch = pytest.MonkeyPatch()
    for name in list(os.environ):
        if name.startswith(("PREFECT_", "AWS_", "N1N_")) or name.lower().endswith("_proxy"):
            patch.delenv(name)
    home = tmp_path_factory.mktemp("prefect-home")
    patch.setenv("PREFECT_HOME", str(home))
    patch.setenv("PREFECT_LOCAL_STORAGE_PATH", str(home / "storage"))
    patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    patch.setenv("DO_NOT_TRACK", "1")
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield
    patch.undo()


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[None]:
    """A Prefect API for the tests that run through the real engine; it takes a while to start."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield
