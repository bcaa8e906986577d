"""What `n1n-prefect doctor` looks at, each part read once."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from n1n_prefect.client import N1nClient

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from n1n_prefect.blocks import N1nCredentials, S3Location

_GATEWAY_SECONDS = 15.0


@dataclass(frozen=True)
class Named:
    """The names of what is looked at."""

    credentials: str
    location: str
    work_pool: str | None
    """None for whichever there is."""


class Patient:
    """A set-up: the server, and the blocks and the work pool of these names on it."""

    def __init__(self, named: Named) -> None:
        self.named = named

    @contextmanager
    def client(self) -> "Generator[SyncPrefectClient]":
        """The Prefect API."""
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            yield client

    @cached_property
    def credentials(self) -> "N1nCredentials":
        """The credentials block."""
        from n1n_prefect import N1nCredentials
        from n1n_prefect.cli.documents import found

        with self.client() as client:
            return found(client, N1nCredentials, self.named.credentials)

    @cached_property
    def location(self) -> "S3Location":
        """The location block."""
        from n1n_prefect import S3Location
        from n1n_prefect.cli.documents import found

        with self.client() as client:
            return found(client, S3Location, self.named.location)

    @cached_property
    def result_storage(self) -> Any:
        """Where Prefect keeps results where a flow says nothing else."""
        from prefect.results import get_default_result_storage

        return get_default_result_storage()

    def gateway(self) -> N1nClient:
        """A client of the gateway that is not as patient as one that waits for an image."""
        block = self.credentials
        return N1nClient(
            block.api_key.get_secret_value(),
            block.base_url,
            timeout_seconds=min(block.timeout_seconds, _GATEWAY_SECONDS),
        )
