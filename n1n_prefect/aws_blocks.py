"""What a prefect-aws block says about a location in S3, and what of it a location cannot keep.

The blocks are known by their fields, so that prefect-aws need not be installed.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from n1n_prefect.addresses import shown
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
    fields = _connection_of(block)
    if not hasattr(block, "minio_root_user"):
        return {**fields, **_aws_keys_of(block), **_role_of(block)}
    if not fields["endpoint_url"] and not given.get("endpoint_url"):
        raise InvalidRequestError(
            f"{type(block).__name__} says no endpoint_url in its aws_client_parameters, and would mean AWS; pass "
            "endpoint_url=."
        )
    return {**fields, "aws_access_key_id": block.minio_root_user, "aws_secret_access_key": block.minio_root_password}


def _aws_keys_of(block: Any) -> dict[str, Any]:
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "profile_name")
    return {name: value for name in names if (value := getattr(block, name, None))}


_ROLE_FIELDS = {
    "RoleSessionName": "assume_role_session_name",
    "DurationSeconds": "assume_role_duration_seconds",
    "ExternalId": "assume_role_external_id",
}


def _role_of(block: Any) -> dict[str, Any]:
    """The role that prefect-aws 0.7.6 and later let a block assume."""
    arn = getattr(block, "assume_role_arn", None)
    if not arn:
        return {}
    said = _role_arguments(block)
    own = {field: said.pop(name) for name, field in _ROLE_FIELDS.items() if name in said}
    return {"assume_role_arn": arn, **own, "assume_role_options": said}


def _role_arguments(block: Any) -> dict[str, Any]:
    parameters = getattr(block, "assume_role_kwargs", None)
    return parameters.get_params_override() if parameters else {}


def _connection_of(block: Any) -> dict[str, Any]:
    """Region, endpoint, addressing and trust of a prefect-aws block."""
    parameters = block.aws_client_parameters
    config = dict(parameters.config or {})
    s3 = dict(config.pop("s3", None) or {})
    region, style = config.pop("region_name", None), s3.pop("addressing_style", None)
    lost = [*config, *(f"s3.{name}" for name in s3)]
    if lost:
        _logger.warning("Of aws_client_parameters.config, %s is not taken over.", ", ".join(sorted(lost)))
    if parameters.api_version:
        _logger.warning("Of aws_client_parameters, api_version is not taken over.")
    fields = {"region_name": block.region_name or region, "endpoint_url": parameters.endpoint_url}
    fields |= {"addressing_style": style or "auto", **_trust_of(parameters)}
    return {name: "" if value is None else value for name, value in fields.items()}


def _trust_of(parameters: Any) -> dict[str, Any]:
    """A path stood in `verify` once; prefect-aws still takes it there."""
    path = parameters.verify_cert_path or (None if isinstance(parameters.verify, bool) else parameters.verify)
    return {"verify": parameters.verify is not False, "ca_bundle": str(path or "")}


def _refuse_what_is_lost(block: Any) -> None:
    """Refuses what a location has no place for and would be missed."""
    parameters, role = block.aws_client_parameters, _role_arguments(block)
    is_assumed = bool(getattr(block, "assume_role_arn", None))
    mfa = "an MFA code works once, and the role must be renewed; assume a role whose trust policy asks for none"
    lost = {
        "use_ssl": (not parameters.use_ssl and not parameters.endpoint_url, "give an http:// endpoint_url"),
        "assume_role_kwargs.SerialNumber": (is_assumed and "SerialNumber" in role, mfa),
        "assume_role_kwargs.TokenCode": (is_assumed and "TokenCode" in role, mfa),
    }
    for name, (is_lost, remedy) in lost.items():
        if is_lost:
            raise InvalidRequestError(
                f"{type(block).__name__} sets {name}, which an S3Location does not have; {remedy}, and make the "
                "S3Location without it."
            )


# ── what a role may look like ────────────────────────────────────────────────

_ROLE_OPTIONS = ("Policy", "PolicyArns", "Tags", "TransitiveTagKeys", "SourceIdentity", "ProvidedContexts")


def checked_role_arn(arn: str) -> str:
    """The role's name as STS takes it; empty stays empty.

    Raises:
        ValueError: It is no role's name.
    """
    bare = arn.strip()
    # Other makers' partitions, such as arn:minio:…, are taken as they are; STS asks for 20 characters.
    shape = r"arn:aws[\w-]*:iam::\d{12}:role/\S+" if bare.startswith("arn:aws") else r"arn:\S{16,}"
    if bare and not re.fullmatch(shape, bare):
        raise ValueError(f"{shown(bare)} is no role; write arn:aws:iam::123456789012:role/NAME")
    return bare


def checked_role_options(options: dict[str, Any]) -> dict[str, Any]:
    """Further arguments of AssumeRole.

    Raises:
        ValueError: One is unknown, has a field of its own, or would let the role be assumed only once.
    """
    for name in sorted(options.keys() - {*_ROLE_OPTIONS}):
        if name in _ROLE_FIELDS:
            raise ValueError(f"{name} has a field of its own, {_ROLE_FIELDS[name]}; give it there")
        raise ValueError(f"{shown(name)} is none of {', '.join(_ROLE_OPTIONS)}; leave it out")
    return options
