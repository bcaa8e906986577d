"""How an image gets into an S3 bucket and out of it: key, metadata, conditional put, copy, errors.

The boto3 client comes in as an argument; `make_client` builds one. What is put has a
SHA-256 that the store verifies, and an object that is there already is never overwritten
unawares. How well that last promise holds depends on the store, see `put`.
"""

import base64
import dataclasses
import hashlib
import logging
import re
import string
import unicodedata
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Literal, get_args
from urllib.parse import quote, unquote, urlsplit

from pydantic.dataclasses import dataclass

from n1n_prefect.errors import InvalidRequestError, N1nError, SourceError, UploadError, without_secrets

IfExists = Literal["fail", "keep", "replace"]
ConditionalPut = Literal["auto", "always", "never"]
Checksum = Literal["sha256", "md5", "none"]
AddressingStyle = Literal["auto", "path", "virtual"]

DEFAULT_KEY_TEMPLATE = "{prefix}/{sha256}.{extension}"
KEY_NAMES = ("prefix", "sha256", "extension", "name", "date", "model", "request_key")
MAX_KEY_BYTES = 1024
MAX_METADATA_BYTES = 2048

_EXTENSIONS = {"image/jpeg": "jpg", "image/svg+xml": "svg", "image/tiff": "tif"}
_logger = logging.getLogger(__name__)


def fill_key(
    template: str,
    *,
    prefix: str,
    sha256: str,
    extension: str,
    name: str | None,
    date: str,
    model: str,
    request_key: str,
) -> str:
    """The object key that a template makes for one image.

    Empty segments collapse, and there is no leading slash. Slashes in `name` make sub-folders.

    Args:
        template: Text with the names of `KEY_NAMES` in single braces.
        prefix: What comes before every key of a location; may be empty.
        sha256: SHA-256 of the bytes, lower-case hex.
        extension: File extension without the dot.
        name: The caller's own name for the image, such as a SKU; required by `{name}`, refused without it.
        date: Day of the upload in UTC, `YYYY-MM-DD`.
        model: The model that was asked.
        request_key: The paid request's identity.

    Raises:
        InvalidRequestError: The template or the key it makes is not usable.
    """
    names = _names_in(template)
    if name is None and "name" in names:
        raise InvalidRequestError(f"key_template={template!r} has {{name}} and no name was given; pass name=.")
    if name is not None and "name" not in names:
        raise InvalidRequestError(
            f"name={name!r} has no place in key_template={template!r}; put {{name}} into the template, "
            "such as '{prefix}/{name}.{extension}'."
        )
    if name is not None and not name.strip(" /"):
        raise InvalidRequestError(f"name={name!r} is empty; give every image a name of its own.")
    filled = template.format(
        prefix=prefix, sha256=sha256, extension=extension, name=name, date=date, model=model, request_key=request_key
    )
    return check_key("/".join(part for part in filled.split("/") if part))


def _names_in(template: str) -> set[str]:
    known = ", ".join(f"{{{name}}}" for name in KEY_NAMES)
    try:
        fields = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(template) if name is not None]
    except ValueError as exc:
        raise InvalidRequestError(f"key_template={template!r} is broken ({exc}); its names are {known}.") from exc
    for name, spec, how in fields:
        written = "{" + name + (f"!{how}" if how else "") + (f":{spec}" if spec else "") + "}"
        if written[1:-1] not in KEY_NAMES:
            raise InvalidRequestError(f"key_template={template!r} has {written}; its names are {known}, as they stand.")
    names = {name for name, _, _ in fields}
    if not names & {"sha256", "name", "request_key"}:
        raise InvalidRequestError(
            f"key_template={template!r} gives every image the same key; add {{sha256}}, {{name}} or {{request_key}}."
        )
    return names


def check_key(key: str) -> str:
    """The key itself, if it is one that every store and file system below it takes.

    Raises:
        InvalidRequestError: It is empty or a whole address, starts or ends with a slash, climbs with `..`,
            has control characters or lone surrogates, or is longer than 1,024 bytes of UTF-8.
    """
    if key.lower().startswith("s3://"):
        raise InvalidRequestError(f"key={key!r} is an address; give the part after s3:// and the bucket's name alone.")
    if not key or key.startswith("/") or key.endswith("/"):
        raise InvalidRequestError(f"key={key!r} must name an object, with no slash at its start or end.")
    if {".", ".."} & set(re.split(r"[/\\]", key)):
        raise InvalidRequestError(f"key={key!r} has a '.' or '..' between its slashes; name the folder itself.")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in key):
        raise InvalidRequestError(f"key={key!r} has control characters or half a surrogate pair; take them out.")
    length = len(key.encode())
    if length > MAX_KEY_BYTES:
        raise InvalidRequestError(f"key={key[:60]!r}… is {length:,} bytes; S3 takes {MAX_KEY_BYTES:,}, so shorten it.")
    return key


def extension_of(media_type: str) -> str:
    """The usual file extension of a media type, without the dot; `bin` where there is none."""
    subtype = re.sub(r"[^a-z0-9]", "", media_type.lower().partition("/")[2])
    return _EXTENSIONS.get(media_type.lower(), subtype or "bin")


_METADATA_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_PLAIN = "".join(character for character in map(chr, range(0x20, 0x7F)) if character != "%")
_METADATA_HEADER = len("x-amz-meta-")


def encode_metadata(metadata: Mapping[str, Any], sha256: str) -> dict[str, str]:
    """User metadata as S3 takes it: ASCII, at most 2 KB, and always with `sha256`.

    Keys become lower case. In values white space is single spaces, and whatever is not printable
    ASCII, and `%` itself, is percent-encoded UTF-8 (`urllib.parse.unquote` reads it). Where it is
    too much, the longest values are cut.

    Raises:
        InvalidRequestError: A key has other characters than a header takes, is given twice in
            another case, or there are so many keys that no room is left for values.
    """
    encoded = {_metadata_key(key): _percent_encoded(str(value)) for key, value in metadata.items()}
    if len(encoded) < len(metadata):
        raise InvalidRequestError(f"metadata keys {list(metadata)!r} differ only in case; S3 keeps one of them.")
    encoded["sha256"] = sha256
    fitted = _fitted(encoded)
    if fitted["sha256"] != sha256:
        raise InvalidRequestError(f"metadata has {len(metadata)} keys, too many for S3's 2 KB; give fewer.")
    return fitted


def _metadata_key(key: str) -> str:
    if not _METADATA_KEY.fullmatch(key.lower()):
        raise InvalidRequestError(f"metadata key {key!r} is not usable; write it in a-z, 0-9, '-', '_' and '.'.")
    return key.lower()


def _percent_encoded(value: str) -> str:
    return quote(" ".join(value.split()), safe=_PLAIN, errors="replace")


def _fitted(encoded: dict[str, str]) -> dict[str, str]:
    """The metadata in 2 KB: short values whole, long ones cut to equal shares of what is left."""
    fitted = dict(encoded)
    room = MAX_METADATA_BYTES - sum(len(key) + _METADATA_HEADER for key in encoded)
    for done, key in enumerate(sorted(encoded, key=lambda key: len(encoded[key]))):
        fitted[key] = _cut(encoded[key], max(0, room // (len(encoded) - done)))
        room -= len(fitted[key])
    return fitted


def _cut(value: str, length: int) -> str:
    if len(value) <= length:
        return value
    whole = re.sub(r"%[0-9A-F]?$", "", value[:length])
    return _percent_encoded(unquote(whole, errors="ignore"))


def make_client(
    *,
    aws_access_key_id: str = "",
    aws_secret_access_key: str = "",
    aws_session_token: str = "",
    region_name: str = "",
    endpoint_url: str = "",
    addressing_style: AddressingStyle = "auto",
    connect_timeout_seconds: float = 10,
    read_timeout_seconds: float = 60,
    max_attempts: int = 3,
) -> Any:
    """A boto3 S3 client of its own session, so that threads may build clients at once.

    Without keys boto3's own chain finds them: environment, profile, web identity, instance role.
    Checksums are sent only where we ask for one, because stores other than AWS refuse boto3's own.
    """
    import boto3.session
    from botocore.config import Config

    session = boto3.session.Session(
        aws_access_key_id=aws_access_key_id or None,
        aws_secret_access_key=aws_secret_access_key or None,
        aws_session_token=aws_session_token or None,
        region_name=region_name or None,
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
    return session.client("s3", endpoint_url=endpoint_url or None, config=config)


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
        metadata: User metadata, see `encode_metadata`; `sha256` is added.
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
    looks_first = conditional == "never" or (conditional == "auto" and not _is_aws(client.meta.endpoint_url))
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
        return {"ContentMD5": base64.b64encode(_md5(data)).decode()}
    return {}


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _is_aws(endpoint_url: str) -> bool:
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
        metadata: User metadata to add to the source's.
        if_exists: What to do about another object at the target: `fail`, `keep` it, or `replace` it.
        extra_args: More arguments of `copy_object`, such as `StorageClass`.

    Raises:
        UploadError: The source is gone or changed, or as in `put`.
    """
    with location_errors(UploadError, doing="copy from", bucket=source_bucket, key=source_key):
        source = client.head_object(Bucket=source_bucket, Key=source_key)
    stored = _stored_sha256(source)
    if source["ContentLength"] != size_bytes or stored not in ("", sha256):
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
                if _code_of(exc) not in _LOST_RACE:
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
            status = _status_of(exc)
            if status == 404:
                return None
            if status not in (400, 403) or (must and self.if_exists != "replace"):
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
        if "Body" in self.arguments and there.etag == _md5(self.arguments["Body"]).hex():
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
            if _code_of(exc) not in _LOST_RACE | {"NoSuchKey", "404"}:
                raise
        raise self.changed()

    def send(self, **condition: str) -> Put:
        try:
            answer = self.send_by(**self.arguments, **condition)
        except self.client.exceptions.ClientError as exc:
            if not (condition and self.looks_first and _code_of(exc) in _NO_CONDITIONS):
                raise
            answer = self.send_by(**self.arguments)
            self.note_without_conditions(_code_of(exc))
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


_WRONG_REGION = "the bucket lives in another region{region}; set region_name to the bucket's own"
_EXPIRED = "the session token has expired or is not valid; renew it, or leave the keys empty to use the machine's role"
_BUSY = "the store is busy or failing; it is worth another try in a while"
_DAMAGED = "the bytes did not arrive as they were sent; it is worth another try"
_NOT_ALLOWED = (
    "these credentials may not do this; grant s3:PutObject and s3:GetObject on the keys and s3:ListBucket on the bucket"
)
_NOT_KNOWN = (
    "the store does not know something that was sent; set conditional_put='never' and checksum='md5' or 'none', and "
    "leave storage class, encryption and tags empty"
)

# What the store's code means for the user, and whether the same call may succeed later.
_MEANINGS: dict[str, tuple[str, bool]] = {
    "NoSuchBucket": ("there is no bucket {bucket!r} at this endpoint; create it, or correct the name", False),
    "InvalidBucketName": ("{bucket!r} is not a bucket's name; give it without s3:// and without a path", False),
    "NoSuchKey": ("there is no such object", False),
    "InvalidAccessKeyId": ("the store does not know this access key; check aws_access_key_id and endpoint_url", False),
    "SignatureDoesNotMatch": ("the secret does not belong to the access key; enter aws_secret_access_key again", False),
    "AccessDenied": (_NOT_ALLOWED, False),
    "AllAccessDisabled": (_NOT_ALLOWED, False),
    "RequestTimeTooSkewed": ("this machine's clock is more than 15 minutes off; set it, for instance by NTP", False),
    "ExpiredToken": (_EXPIRED, False),
    "InvalidToken": (_EXPIRED, False),
    "TokenRefreshRequired": (_EXPIRED, False),
    "PermanentRedirect": (_WRONG_REGION, False),
    "TemporaryRedirect": (_WRONG_REGION, True),
    "AuthorizationHeaderMalformed": (_WRONG_REGION, False),
    "IllegalLocationConstraintException": (_WRONG_REGION, False),
    "SlowDown": (_BUSY, True),
    "ServiceUnavailable": (_BUSY, True),
    "InternalError": (_BUSY, True),
    "RequestTimeout": (_BUSY, True),
    "OperationAborted": (_BUSY, True),
    "BadDigest": (_DAMAGED, True),
    "XAmzContentSHA256Mismatch": (_DAMAGED, True),
    "XAmzContentChecksumMismatch": (_DAMAGED, True),
    "NotImplemented": (_NOT_KNOWN, False),
    "InvalidArgument": (_NOT_KNOWN, False),
    "InvalidRequest": (_NOT_KNOWN, False),
    # Answers to HEAD have no body; their code is the status.
    "301": (_WRONG_REGION, False),
    "400": ("the store refuses the request; look at region_name, and whether the session token has expired", False),
    "403": (_NOT_ALLOWED + "; or the keys themselves are wrong", False),
    "404": ("there is no such object, or no such bucket", False),
}  # fmt: skip

_NO_CREDENTIALS = (
    "no usable credentials were found; set aws_access_key_id and aws_secret_access_key on the S3Location block, "
    "or give this machine a role or profile"
)
_UNREACHABLE = "the endpoint could not be reached; check endpoint_url, the network and that the store is up"

# The same for what happens on this side of the wire; a subclass stands before its base.
_LOCAL_MEANINGS: tuple[tuple[str, str, bool], ...] = (
    ("NoCredentialsError", _NO_CREDENTIALS, False),
    ("PartialCredentialsError", _NO_CREDENTIALS, False),
    ("ProfileNotFound", _NO_CREDENTIALS, False),
    ("TokenRetrievalError", _NO_CREDENTIALS, False),
    ("CredentialRetrievalError", _NO_CREDENTIALS, True),
    ("MetadataRetrievalError", _NO_CREDENTIALS, True),
    ("SSLError", "the endpoint's certificate is not trusted; AWS_CA_BUNDLE names your own authority", False),
    ("ConnectTimeoutError", _UNREACHABLE, True),
    ("ProxyConnectionError", "the proxy could not be reached; check HTTPS_PROXY and NO_PROXY", True),
    ("EndpointConnectionError", _UNREACHABLE, True),
    ("ReadTimeoutError", "the store did not answer in time; it is worth another try in a while", True),
    ("ConnectionClosedError", "the store closed the connection; it is worth another try", True),
    ("ResponseStreamingError", "the object broke off while it was read; it is worth another try", True),
    ("IncompleteReadError", "the object broke off while it was read; it is worth another try", True),
    ("ConnectionError", _UNREACHABLE, True),
    ("HTTPClientError", _UNREACHABLE, True),
    ("ParamValidationError", "S3 does not take these values; check bucket, key, tags and metadata", False),
    ("BotoCoreError", "boto3 could not make the call; check the S3Location block", False),
)  # fmt: skip


@contextmanager
def location_errors(error: type[N1nError], *, doing: str, bucket: str, key: str = "") -> Generator[None, None, None]:
    """Turns what botocore raises into one of our errors, with its code and what to do about it.

    Args:
        error: The class to raise: `UploadError`, or `SourceError` where an input is read.
        doing: What was tried, as a verb for the message.
        bucket: Where.
        key: Where.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    address = f"s3://{bucket}/{key}" if key else f"s3://{bucket}"
    try:
        yield
    except ClientError as exc:
        raise _refused(error, f"Could not {doing} {address}", bucket, exc) from _stripped(exc)
    except BotoCoreError as exc:
        raise _failed(error, f"Could not {doing} {address}", exc) from _stripped(exc)


def _refused(error: type[N1nError], what: str, bucket: str, exc: Any) -> N1nError:
    code, status = _code_of(exc), _status_of(exc)
    about = exc.response.get("ResponseMetadata", {})
    said = without_secrets(exc.response["Error"].get("Message") or "no more than that")[:300]
    busy = status in (429, 500, 502, 503, 504)
    meaning, is_transient = _MEANINGS.get(code, (_BUSY if busy else "the store refuses it, in its own words", busy))
    return error(
        f"{what}: {meaning.format(bucket=bucket, region=_region_in(exc))}. The store says {code}: {said}",
        about.get("RequestId", ""),
        status_code=status or None,
        code=code,
        is_transient=is_transient,
    )


def _region_in(exc: Any) -> str:
    headers = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = exc.response["Error"].get("Region") or headers.get("x-amz-bucket-region")
    return f", {region}" if region else ""


def _failed(error: type[N1nError], what: str, exc: Exception) -> N1nError:
    ancestors = [kind.__name__ for kind in type(exc).__mro__]
    _, meaning, is_transient = next(row for row in _LOCAL_MEANINGS if row[0] in ancestors)
    said = without_secrets(str(exc))[:300]
    return error(f"{what}: {meaning}. boto3 says: {said}", code=ancestors[0], is_transient=is_transient)


def _stripped(exc: Any) -> Exception:
    """The cause without the signed request, which holds the session token."""
    exc.request = None
    answer = getattr(exc, "response", None)
    if isinstance(answer, dict):
        answer["Error"] = {name: said for name, said in answer["Error"].items() if name in ("Code", "Message")}
    return exc


def _code_of(exc: Any) -> str:
    return str(exc.response["Error"].get("Code", ""))


def _status_of(exc: Any) -> int:
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
