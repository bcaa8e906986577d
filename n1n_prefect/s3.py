"""How an image gets into an S3 bucket and out of it: conditional put, copy, read, delete.

The boto3 client comes in as an argument; `make_client` builds one. What is put has a
SHA-256 that the store verifies, and an object that is there already is never overwritten
unawares. How well that last promise holds depends on the store, see `put`.
"""

import base64
import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Literal, get_args
from urllib.parse import unquote, urlsplit

from pydantic.dataclasses import dataclass

from n1n_prefect.errors import InvalidRequestError, SourceError, UploadError
from n1n_prefect.log_guard import guard_logs
from n1n_prefect.masking import remember_secret
from n1n_prefect.object_keys import encode_metadata
from n1n_prefect.s3_errors import code_of, location_errors, status_of

IfExists = Literal["fail", "keep", "replace"]
ConditionalPut = Literal["auto", "always", "never"]
Checksum = Literal["sha256", "md5", "none"]
AddressingStyle = Literal["auto", "path", "virtual"]

_logger = logging.getLogger(__name__)


def make_client(
    *,
    aws_access_key_id: str = "",
    aws_secret_access_key: str = "",
    aws_session_token: str = "",
    profile_name: str = "",
    role: Mapping[str, Any] | None = None,
    region_name: str = "",
    endpoint_url: str = "",
    addressing_style: AddressingStyle = "auto",
    verify: bool | str = True,
    connect_timeout_seconds: float = 10,
    read_timeout_seconds: float = 60,
    max_attempts: int = 3,
) -> Any:
    """A boto3 S3 client of its own session, see `aws_sessions.make_session` for whose keys it has.

    `verify` is False for an unchecked certificate, or the path of the authorities' certificates.
    Checksums are sent only where we ask for one, because stores other than AWS refuse boto3's own.
    """
    from botocore.config import Config

    from n1n_prefect.aws_sessions import make_session

    session = make_session(
        aws_access_key_id=aws_access_key_id,
        aws_secret_access_key=aws_secret_access_key,
        aws_session_token=aws_session_token,
        profile_name=profile_name,
        region_name=region_name,
        role=role,
    )
    # Over TLS boto3 need not hash the whole body for the signature; the signed checksum covers it.
    is_plain = endpoint_url.startswith("http://")
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": addressing_style, "payload_signing_enabled": is_plain},
        retries={"mode": "standard", "total_max_attempts": max_attempts},
        connect_timeout=connect_timeout_seconds,
        read_timeout=read_timeout_seconds,
        max_pool_connections=32,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    # None leaves it to boto3, which reads AWS_CA_BUNDLE.
    checked_by = None if verify is True else verify
    client = session.client("s3", endpoint_url=endpoint_url or None, verify=checked_by, config=config)
    for secret in (aws_secret_access_key, aws_session_token):
        remember_secret(secret, is_temporary=bool(aws_session_token))
    guard_logs()
    return client


@dataclass(frozen=True)
class Put:
    """What is at the key now, and whether we wrote it."""

    etag: str
    """The store's ETag, without quotes."""

    version_id: str
    """The object's version; empty where the bucket keeps none."""

    created: bool
    """Whether this call wrote the object; False when the same bytes, or an object that was kept, were there."""

    sha256: str
    """SHA-256 of what is there; empty for a kept object that does not say."""

    size_bytes: int
    """Length of what is there in bytes."""

    kept_other: bool = False
    """Whether a different object was there and stayed, as `if_exists="keep"` asks."""


def put(
    client: Any,
    *,
    bucket: str,
    key: str,
    data: bytes,
    sha256: str,
    media_type: str,
    metadata: Mapping[str, Any] | None = None,
    if_exists: IfExists = "fail",
    conditional: ConditionalPut = "auto",
    checksum: Checksum = "sha256",
    extra_args: Mapping[str, str] | None = None,
) -> Put:
    """Puts an image at a key, without overwriting another one unawares.

    The same bytes are never a conflict. Of several writers at one moment exactly one creates
    the object, if the store obeys `If-None-Match`. AWS does. Some stores answer that they do not
    know it, some (`rclone serve s3` 1.75) ignore it and overwrite: there we look first, and two
    writers within the same moment may both write, the later one winning.

    Args:
        client: A boto3 S3 client.
        bucket: The bucket's name.
        key: The object's key.
        data: The bytes.
        sha256: Their SHA-256, lower-case hex; the store verifies it under `checksum="sha256"`.
        media_type: The object's ContentType.
        metadata: User metadata, see `object_keys.encode_metadata`; `sha256` is added.
        if_exists: What to do about an object with other bytes: `fail`, `keep` it, or `replace` it.
        conditional: `auto` sends the condition and, on endpoints other than AWS, looks first;
            `always` relies on the condition alone, one request less; `never` only looks first.
        checksum: What the store verifies the bytes by.
        extra_args: More arguments of `put_object`, such as `StorageClass`.

    Raises:
        UploadError: The store refused or could not be reached; code `ObjectExists` for a conflict.
    """
    arguments = {
        "Bucket": bucket,
        "Key": key,
        "Body": data,
        "ContentLength": len(data),
        "ContentType": media_type,
        "Metadata": encode_metadata(metadata or {}, sha256),
        **_checksum_arguments(checksum, sha256, data),
        **(extra_args or {}),
    }
    looks_first = conditional == "never" or (conditional == "auto" and not is_aws(client.meta.endpoint_url))
    writing = _Writing(
        client, client.put_object, arguments, sha256, len(data), if_exists, looks_first, conditional != "never"
    )
    with location_errors(UploadError, doing="write", bucket=bucket, key=key):
        return writing.run()


def _checksum_arguments(checksum: Checksum, sha256: str, data: bytes) -> dict[str, str]:
    if checksum == "sha256":
        # The ready value keeps boto3 from hashing the bytes again.
        return {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": base64.b64encode(bytes.fromhex(sha256)).decode()}
    if checksum == "md5":
        return {"ContentMD5": base64.b64encode(md5(data)).decode()}
    return {}


def md5(data: bytes) -> bytes:
    """The MD5 digest, which S3 takes for a checksum; 16 bytes."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def is_aws(endpoint_url: str) -> bool:
    """Whether an endpoint is one of AWS's own."""
    host = urlsplit(endpoint_url).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def copy(
    client: Any,
    *,
    source_bucket: str,
    source_key: str,
    bucket: str,
    key: str,
    sha256: str,
    size_bytes: int,
    etag: str = "",
    metadata: Mapping[str, Any] | None = None,
    if_exists: IfExists = "fail",
    extra_args: Mapping[str, str] | None = None,
) -> Put:
    """Copies an object inside the store, with its ContentType and metadata; no bytes travel.

    The rules of `put` hold, but for one: many stores know no condition on a copy, so two
    writers within the same moment may both write there.

    Args:
        client: A boto3 S3 client that may read the source and write the target.
        source_bucket: Where the bytes are.
        source_key: Where the bytes are.
        bucket: The target's bucket.
        key: The target's key.
        sha256: What the source is supposed to hold, lower-case hex.
        size_bytes: What the source is supposed to hold, in bytes.
        etag: The ETag that the source had when it was written; where it is known, another one means other bytes.
        metadata: User metadata to add to the source's.
        if_exists: What to do about another object at the target: `fail`, `keep` it, or `replace` it.
        extra_args: More arguments of `copy_object`, such as `StorageClass`.

    Raises:
        UploadError: The source is gone or changed, or as in `put`.
    """
    with location_errors(UploadError, doing="copy from", bucket=source_bucket, key=source_key):
        source = client.head_object(Bucket=source_bucket, Key=source_key)
    stored = _stored_sha256(source)
    is_same = etag in ("", _bare(source["ETag"]))  # a recorded hash is only what its writer said
    if source["ContentLength"] != size_bytes or stored not in ("", sha256) or not is_same:
        raise UploadError(
            f"s3://{source_bucket}/{source_key} is no longer the image that was uploaded: "
            f"expected {size_bytes:,} bytes with SHA-256 {sha256}, found {source['ContentLength']:,} bytes "
            f"with {stored or 'none recorded'}. Upload the staged original instead.",
            code="SourceChanged",
        )
    arguments = {
        "Bucket": bucket,
        "Key": key,
        "CopySource": {"Bucket": source_bucket, "Key": source_key},
        "CopySourceIfMatch": source["ETag"],
        **_metadata_arguments(source, metadata, sha256),
        **(extra_args or {}),
    }
    # Older boto3 has no conditions on a copy.
    conditions = "IfNoneMatch" in client.meta.service_model.operation_model("CopyObject").input_shape.members
    writing = _Writing(client, client.copy_object, arguments, sha256, size_bytes, if_exists, True, conditions)
    with location_errors(UploadError, doing="write", bucket=bucket, key=key):
        return writing.run()


def _metadata_arguments(source: Any, metadata: Mapping[str, Any] | None, sha256: str) -> dict[str, Any]:
    if not metadata:
        return {"MetadataDirective": "COPY"}
    kept = {key: unquote(value) for key, value in source["Metadata"].items()}
    return {
        "MetadataDirective": "REPLACE",
        "ContentType": source["ContentType"],
        "Metadata": encode_metadata({**kept, **{key.lower(): value for key, value in metadata.items()}}, sha256),
    }


def delete(client: Any, *, bucket: str, key: str, sha256: str, size_bytes: int, version_id: str = "") -> bool:
    """Removes an image from a key, unless something else is there; whether there was anything to remove.

    Where the bucket keeps versions and ours is known, that version alone goes, for good. Else the store
    is asked to remove the very object that was looked at; a store that ignores the condition may
    remove one that another writer puts there at the same moment.

    Args:
        client: A boto3 S3 client.
        bucket: Where the image is.
        key: Where the image is.
        sha256: What is supposed to be there, lower-case hex.
        size_bytes: What is supposed to be there, in bytes.
        version_id: The image's version.

    Raises:
        UploadError: Something else is there, code `ObjectChanged`; or the store refused or could not be reached.
    """
    which = {"Bucket": bucket, "Key": key, **({"VersionId": version_id} if version_id else {})}
    with location_errors(UploadError, doing="delete", bucket=bucket, key=key):
        try:
            there = _There.of(client.head_object(**which))
        except client.exceptions.ClientError as exc:
            # A marker in the version's place is answered with 405.
            if status_of(exc) in (404, 405):
                return False
            raise
        if not _is_image(client, which, there, sha256, size_bytes):
            raise UploadError(
                f"s3://{bucket}/{key} holds something else by now ({there.size_bytes:,} bytes, ETag {there.etag!r}) "
                f"than the image with SHA-256 {sha256}, and was left alone.",
                code="ObjectChanged",
            )
        return _remove(client, which, there.etag)


def _is_image(client: Any, which: Mapping[str, str], there: "_There", sha256: str, size_bytes: int) -> bool:
    if there.size_bytes != size_bytes:
        return False
    if there.sha256:
        return there.sha256 == sha256
    with closing(client.get_object(**which)["Body"]) as body:
        return hashlib.sha256(body.read()).hexdigest() == sha256


def _remove(client: Any, which: Mapping[str, str], etag: str) -> bool:
    # Older boto3 has no condition on a removal, and neither is one needed where the version is named.
    known = "IfMatch" in client.meta.service_model.operation_model("DeleteObject").input_shape.members
    condition = {"IfMatch": f'"{etag}"'} if known and etag and "VersionId" not in which else {}
    try:
        client.delete_object(**which, **condition)
    except client.exceptions.ClientError as exc:
        if condition and code_of(exc) in _NO_CONDITIONS:
            client.delete_object(**which)
        elif status_of(exc) == 404:
            return False
        elif condition and code_of(exc) in _LOST_RACE:
            raise UploadError(
                f"s3://{which['Bucket']}/{which['Key']} was changed at the same moment, and was left alone.",
                code="ObjectChanged",
            ) from None
        else:
            raise
    return True


_LOST_RACE = {"PreconditionFailed", "ConditionalRequestConflict", "OperationAborted", "412", "304"}
_NO_CONDITIONS = {"NotImplemented", "InvalidArgument", "InvalidRequest", "MethodNotAllowed", "501"}
_ROUNDS = 3

# Endpoint, bucket and operation, where the store answered that it knows no condition on it.
_without_conditions: set[tuple[str, str, str]] = set()


@dataclasses.dataclass(frozen=True)
class _Writing:
    """One object about to be written, and what to do about the one that may be there."""

    client: Any
    send_by: Callable[..., Any]
    arguments: dict[str, Any]
    sha256: str
    size_bytes: int
    if_exists: IfExists
    looks_first: bool
    conditions: bool

    def __post_init__(self) -> None:
        if self.if_exists not in get_args(IfExists):
            raise InvalidRequestError(f"if_exists={self.if_exists!r} is none of {', '.join(get_args(IfExists))}.")

    def run(self) -> Put:
        there = self.look(must=not self.has_conditions) if self.looks_first else None
        if there is not None and there.seen:
            return self.meet(there)
        if not self.has_conditions:
            return self.send()
        for _ in range(_ROUNDS):
            try:
                return self.send(IfNoneMatch="*")
            except self.client.exceptions.ClientError as exc:
                if code_of(exc) not in _LOST_RACE:
                    raise
            there = self.look()
            if there is not None:
                return self.meet(there)
        raise self.changed()

    @property
    def address(self) -> tuple[str, str]:
        return self.arguments["Bucket"], self.arguments["Key"]

    @property
    def has_conditions(self) -> bool:
        return self.conditions and self.operation not in _without_conditions

    @property
    def operation(self) -> tuple[str, str, str]:
        return self.client.meta.endpoint_url, self.address[0], self.send_by.__name__

    def look(self, *, must: bool = False) -> "_There | None":
        """What is at the key, None if nothing; not being allowed to look is an error only if we `must`."""
        bucket, key = self.address
        try:
            return _There.of(self.client.head_object(Bucket=bucket, Key=key))
        except self.client.exceptions.ClientError as exc:
            status = status_of(exc)
            if status == 404:
                return None
            is_ours = exc.operation_name != "HeadObject"  # of the role, which the write would not get either
            if status not in (400, 403) or is_ours or (must and self.if_exists != "replace"):
                raise
            # A refused HEAD has no body and so gives no reason; the write that follows gets one.
            return _There()

    def meet(self, there: "_There") -> Put:
        if self.is_same(there):
            return Put(there.etag, there.version_id, False, self.sha256, self.size_bytes)
        if self.if_exists == "keep":
            return Put(there.etag, there.version_id, False, there.sha256, there.size_bytes, kept_other=True)
        if self.if_exists == "replace":
            return self.replace(there)
        raise self.conflict(there)

    def is_same(self, there: "_There") -> bool:
        if not there.seen or there.size_bytes != self.size_bytes:
            return False
        if "Body" in self.arguments and there.etag == md5(self.arguments["Body"]).hex():
            return True
        if there.sha256:
            return there.sha256 == self.sha256
        bucket, key = self.address
        with closing(self.client.get_object(Bucket=bucket, Key=key)["Body"]) as body:
            return hashlib.sha256(body.read()).hexdigest() == self.sha256

    def replace(self, there: "_There") -> Put:
        if not (self.has_conditions and there.etag):
            return self.send()
        try:
            return self.send(IfMatch=f'"{there.etag}"')
        except self.client.exceptions.ClientError as exc:
            if code_of(exc) not in _LOST_RACE | {"NoSuchKey", "404"}:
                raise
        raise self.changed()

    def send(self, **condition: str) -> Put:
        try:
            answer = self.send_by(**self.arguments, **condition)
        except self.client.exceptions.ClientError as exc:
            if not (condition and self.looks_first and code_of(exc) in _NO_CONDITIONS):
                raise
            answer = self.send_by(**self.arguments)
            self.note_without_conditions(code_of(exc))
        etag = answer.get("CopyObjectResult", answer).get("ETag", "")
        return Put(_bare(etag), answer.get("VersionId", ""), True, self.sha256, self.size_bytes)

    def note_without_conditions(self, code: str) -> None:
        _without_conditions.add(self.operation)
        endpoint, bucket, operation = self.operation
        _logger.warning(
            "%s knows no conditional %s (%s). What is written to bucket %r is looked for first instead: "
            "two writers at the same moment may both write.",
            endpoint, operation, code, bucket,
        )  # fmt: skip

    def conflict(self, there: "_There") -> UploadError:
        bucket, key = self.address
        found = f"{there.size_bytes:,} bytes, ETag {there.etag!r}, last modified {there.last_modified}"
        return UploadError(
            f"s3://{bucket}/{key} exists already and holds something else "
            f"({found if there.seen else 'these credentials may not look at it'}); ours is {self.size_bytes:,} bytes "
            f"with SHA-256 {self.sha256}. Choose another name= or key=, or if_exists='keep' to leave it, "
            "or if_exists='replace' to overwrite it; this call had if_exists="
            f"{self.if_exists!r}.",
            code="ObjectExists",
        )

    def changed(self) -> UploadError:
        bucket, key = self.address
        return UploadError(
            f"s3://{bucket}/{key} was written or deleted by someone else at the same moment, and nothing was "
            "overwritten; run it again.",
            code="ConditionalRequestConflict",
            is_transient=True,
        )


@dataclasses.dataclass(frozen=True)
class _There:
    """The object that is at a key; `seen` is False where the store does not say."""

    seen: bool = False
    etag: str = ""
    version_id: str = ""
    sha256: str = ""
    size_bytes: int = 0
    last_modified: str = ""

    @classmethod
    def of(cls, head: Any) -> "_There":
        return cls(
            True,
            _bare(head.get("ETag", "")),
            head.get("VersionId", ""),
            _stored_sha256(head),
            head["ContentLength"],
            str(head.get("LastModified", "unknown")),
        )


def _stored_sha256(head: Any) -> str:
    # Some stores give the keys back with a capital.
    return {key.lower(): value for key, value in head.get("Metadata", {}).items()}.get("sha256", "")


def _bare(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def read(client: Any, bucket: str, key: str, max_bytes: int) -> bytes:
    """The bytes of an object, whose length is checked before any of them is read.

    Args:
        client: A boto3 S3 client.
        bucket: The bucket's name.
        key: The object's key.
        max_bytes: The most that is accepted, inclusive.

    Raises:
        SourceError: The object is missing, forbidden, too large or out of reach.
    """
    with location_errors(SourceError, doing="read", bucket=bucket, key=key):
        answer = client.get_object(Bucket=bucket, Key=key)
        with closing(answer["Body"]) as body:
            length = answer["ContentLength"]
            if length > max_bytes:
                raise SourceError(
                    f"s3://{bucket}/{key} is {length:,} bytes and at most {max_bytes:,} are accepted; give a smaller "
                    "image.",
                    code="EntityTooLarge",
                )
            return body.read()
