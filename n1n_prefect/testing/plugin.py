"""Pytest fixtures of the local gateway; ask for them with `pytest_plugins = ["n1n_prefect.testing.plugin"]`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from n1n_prefect.testing.fault_matrix import run_fault_matrix
from n1n_prefect.testing.fault_rows import FaultMatrix
from n1n_prefect.testing.gateway import LocalGateway

if TYPE_CHECKING:
    from n1n_prefect.blocks import N1nCredentials


@pytest.fixture(scope="session")
def n1n_gateway_server() -> Iterator[LocalGateway]:
    """The gateway that the session's tests share; ask for `n1n_gateway` instead."""
    with LocalGateway() as gateway:
        yield gateway


@pytest.fixture
def n1n_gateway(n1n_gateway_server: LocalGateway) -> Iterator[LocalGateway]:
    """A local n1n gateway with an empty ledger and no faults."""
    n1n_gateway_server.reset()
    yield n1n_gateway_server
    n1n_gateway_server.reset()


@pytest.fixture
def n1n_credentials(n1n_gateway: LocalGateway) -> "N1nCredentials":
    """An unsaved `N1nCredentials` block for the local gateway."""
    from pydantic import SecretStr

    from n1n_prefect.blocks import N1nCredentials

    return N1nCredentials(api_key=SecretStr(n1n_gateway.api_key), base_url=n1n_gateway.base_url)


@pytest.fixture
def n1n_gateway_factory() -> Iterator[Callable[..., LocalGateway]]:
    """Starts further gateways with options of `LocalGateway`; they are closed after the test."""
    with ExitStack() as running:

        def start(**options: Any) -> LocalGateway:
            return running.enter_context(LocalGateway(**options))

        yield start


@pytest.fixture
def n1n_fault_matrix() -> Callable[..., FaultMatrix]:
    """Runs a flow under each fault: `n1n_fault_matrix(flow_call).assert_paid_once()`; it is `run_fault_matrix`."""
    return run_fault_matrix
