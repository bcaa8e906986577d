"""Blocks as the environment says them, for `n1n-prefect setup` and the scripts in `blocks/`."""

import os
from collections.abc import Mapping
from typing import Any

from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.saved import save

_CREDENTIALS = {
    "api_key": "N1N_API_KEY",
    "base_url": "N1N_BASE_URL",
    "concurrency_limit": "N1N_CONCURRENCY_LIMIT",
}
_LOCATION = {
    "bucket": "N1N_S3_BUCKET",
    "prefix": "N1N_S3_PREFIX",
    "endpoint_url": "N1N_S3_ENDPOINT_URL",
    "region_name": "N1N_S3_REGION",
}


def credentials_fields(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The fields of an n1n Credentials block that are set: `N1N_API_KEY`, `N1N_BASE_URL`, `N1N_CONCURRENCY_LIMIT`.

    Raises:
        InvalidRequestError: There is no key.
    """
    return _set(_CREDENTIALS, environment, needed="api_key")


def location_fields(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The fields of an S3 Image Location block that are set: `N1N_S3_BUCKET`, `_PREFIX`, `_ENDPOINT_URL`, `_REGION`.

    AWS keys are not among them: boto3's own chain finds them where the flow runs, and no secret is stored.

    Raises:
        InvalidRequestError: There is no bucket.
    """
    return _set(_LOCATION, environment, needed="bucket")


def location_overrides(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The same for a location that another block makes: nothing need be set."""
    return _set(_LOCATION, environment)


def save_credentials(name: str) -> None:
    """Saves an n1n Credentials block, see `credentials_fields`; what is not set stays as the saved block has it."""
    save(N1nCredentials, name, credentials_fields())


def save_location(name: str) -> None:
    """Saves an S3 Image Location block, see `location_fields`; what is not set stays as the saved block has it."""
    save(S3Location, name, location_fields())


def _set(variables: Mapping[str, str], environment: Mapping[str, str], needed: str = "") -> dict[str, Any]:
    fields = {field: environment[name] for field, name in variables.items() if environment.get(name)}
    if needed and needed not in fields:
        raise InvalidRequestError(f"{variables[needed]} is not set in the environment; set it and run this again.")
    return fields
