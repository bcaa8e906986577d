"""What a prefect-aws block says about a location in S3, and what of it a location cannot keep.

The blocks are known by their fields, so that prefect-aws need not be installed.
"""

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from n1n_prefect.errors import InvalidRequestError

_logger = logging.getLogger(__name__)


def location_fields(block: Any, given: Mapping[str, Any], location: type[BaseModel]) -> dict[str, Any]:
    """The fields of a location that another block's fields make.

    Args:
        block: An `S3Bucket`, `AwsCredentials` or `MinIOCredentials` block, or a location.
        given: Fields that the caller gives; they are not needed from the block.
        location: The class of locations; one of them gives its own fields as they are.

    Raises:
        InvalidRequestError: The block is of another kind, or says something that a location cannot keep.
    """
    if isinstance(block, location):
        return {name: getattr(block, name) for name in location.model_fields}
    if hasattr(block, "bucket_name") and hasattr(block, "credentials"):
        folder = {"bucket": block.bucket_name, "prefix": block.bucket_folder or ""}
        return {**location_fields(block.credentials, given, location), **folder}
    if not hasattr(block, "aws_client_parameters"):
        raise InvalidRequestError(
            f"{type(block).__name__} is no S3 block; give an S3Bucket, AwsCredentials, MinIOCredentials or S3Location."
        )
    _refuse_what_is_lost(block)
    fields = {"region_name": block.region_name or "", **_connection_of(block.aws_client_parameters)}
    if not hasattr(block, "minio_root_user"):
        return {**fields, **_aws_keys_of(block)}
    if not fields["endpoint_url"] and not given.get("endpoint_url"):
        raise InvalidRequestError(
            f"{type(block).__name__} says no endpoint_url in its aws_client_parameters, and would mean AWS; pass "
            "endpoint_url=."
        )
    return {**fields, "aws_access_key_id": block.minio_root_user, "aws_secret_access_key": block.minio_root_password}


def _aws_keys_of(block: Any) -> dict[str, Any]:
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return {name: getattr(block, name) for name in names if getattr(block, name)}


def _connection_of(parameters: Any) -> dict[str, str]:
    """Endpoint and addressing of a prefect-aws block's client parameters."""
    config = dict(parameters.config or {})
    style = (config.pop("s3", None) or {}).get("addressing_style")
    if config:
        _logger.warning("Of aws_client_parameters.config, %s is not taken over.", ", ".join(sorted(config)))
    return {"endpoint_url": parameters.endpoint_url or "", "addressing_style": style or "auto"}


def _refuse_what_is_lost(block: Any) -> None:
    """Refuses what a location has no place for and would be missed."""
    parameters = block.aws_client_parameters
    lost = {
        "profile_name": (getattr(block, "profile_name", None), "set AWS_PROFILE where the flow runs"),
        "assume_role_arn": (
            getattr(block, "assume_role_arn", None),
            "let a profile with role_arn, or the machine's own role, assume it and set AWS_PROFILE where the flow runs",
        ),
        "verify": (parameters.verify not in (None, True), "set AWS_CA_BUNDLE to your authority's certificates"),
        "verify_cert_path": (parameters.verify_cert_path, "set AWS_CA_BUNDLE to it where the flow runs"),
        "use_ssl": (not parameters.use_ssl and not parameters.endpoint_url, "give an http:// endpoint_url"),
    }
    for name, (value, remedy) in lost.items():
        if value:
            raise InvalidRequestError(
                f"{type(block).__name__} sets {name}, which an S3Location does not have; {remedy}, and make the "
                "S3Location without it."
            )
