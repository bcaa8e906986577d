"""Fixtures that several test modules ask for; none is automatic but the quiet ones."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["n1n_prefect.testing.plugin", "tests.s3_servers"]

# Nothing of the user's own Prefect or AWS set-up reaches the tests, and nothing of theirs
# his home. Here and not in a fixture: Prefect reads its settings when it is imported, which
# is while the tests are collected.
for _name in list(os.environ):
    if _name.startswith(("PREFECT_", "AWS_", "N1N_")) or _name.lower().endswith("_proxy"):
        del os.environ[_name]
HOME = Path(tempfile.mkdtemp(prefix="n1n-prefect-home-"))
os.environ.update(
    PREFECT_HOME=str(HOME),
    PREFECT_LOCAL_STORAGE_PATH=str(HOME / "storage"),
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="1",
    AWS_EC2_METADATA_DISABLED="true",
)


@pytest.fixture(autouse=True, scope="session")
def prefect_home() -> Iterator[Path]:
    """The folder below which everything of Prefect's is kept; it goes when the session ends."""
    yield HOME
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[None]:
    """A Prefect API for the tests that run through the real engine; it takes a while to start."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield
