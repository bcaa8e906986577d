"""What tests of batches share."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from n1n_prefect import N1nCredentials, S3Location
from n1n_prefect.batch import work
from n1n_prefect.batch.terms import Terms
from tests.batch.carried_out import Job
from tests.batch.small_batches import Batch


@pytest.fixture
def batch_of(tmp_path: Path, n1n_credentials: N1nCredentials, s3_location: S3Location) -> Callable[..., Batch]:
    """Makes a batch of its own name with the terms that a test says."""

    def make(credentials: N1nCredentials | None = None, destination: S3Location | None = None, **terms: Any) -> Batch:
        name = f"batch-{uuid.uuid4().hex[:8]}"  # the journal remembers what a name has paid for
        return Batch(tmp_path, credentials or n1n_credentials, destination or s3_location, Terms(name, name, **terms))

    return make


@pytest.fixture
def batch(batch_of: Callable[..., Batch]) -> Batch:
    return batch_of()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures that may pass are tried again at once."""
    monkeypatch.setattr(work, "_delay", lambda number, error: 0.0)


@pytest.fixture
def job_of(
    tmp_path: Path, n1n_gateway_factory: Callable[..., Any], s3_location: S3Location
) -> Iterator[Callable[..., Job]]:
    """Makes a batch that processes of its own carry out."""
    jobs: list[Job] = []

    def make(rows: int, *, gateway: dict[str, Any] | None = None, **fields: Any) -> Job:
        served = n1n_gateway_factory(canned=True, grain=False, **(gateway or {}))
        jobs.append(Job(tmp_path, served, s3_location, rows, **fields))
        return jobs[-1]

    yield make
    for job in jobs:
        job.end()
