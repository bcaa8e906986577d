"""A Prefect server that automations of ours may act on."""

from collections.abc import Iterator

import pytest

from tests.prefect_server import PrefectServer, started_server


@pytest.fixture(scope="session")
def setup_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """Apart from `prefect_server`, since automations have fixed names and act on every run with the tag."""
    with started_server(tmp_path_factory.mktemp("setup-server")) as server:
        yield server
