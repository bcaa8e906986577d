"""What went wrong in the store, or on the way to it, and what to do about it."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from n1n_prefect.errors import N1nError, without_secrets

_WRONG_REGION = "the bucket lives in another region{region}; set region_name to the bucket's own"
_EXPIRED = "the session token has expired or is not valid; renew it, or leave the keys empty to use the machine's role"
_BUSY = "the store is busy or failing; it is worth another try in a while"
_DAMAGED = "the bytes did not arrive as they were sent; it is worth another try"
_NOT_ALLOWED = (
    "these credentials may not do this; grant s3:PutObject and s3:GetObject on the keys and s3:ListBucket on the "
    "bucket, and to clean up also s3:DeleteObject, and s3:DeleteObjectVersion where the bucket keeps versions"
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
    code, status = code_of(exc), status_of(exc)
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


def code_of(exc: Any) -> str:
    """The store's own code in a `ClientError`, such as `NoSuchKey`; empty if it has none."""
    return str(exc.response["Error"].get("Code", ""))


def status_of(exc: Any) -> int:
    """The HTTP status in a `ClientError`; 0 if it has none."""
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
