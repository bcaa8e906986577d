"""What went wrong in the store, or on the way to it, and what to do about it."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from n1n_prefect.errors import N1nError
from n1n_prefect.masking import without_secrets, without_secrets_in

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

_NOT_ASSUMED = (
    "these credentials may not assume the role; its trust policy must name them, with the external ID if it asks for "
    "one, and they need sts:AssumeRole on assume_role_arn"
)
_NOT_SUCH_A_ROLE = (
    "STS does not take what is said of the role; check assume_role_arn, session name and options, and that the "
    "duration is at most the role's MaxSessionDuration, or 3600 seconds where a role assumes a role"
)

# The same for STS, where the keys are asked for that a role gives.
_ROLE_MEANINGS: dict[str, tuple[str, bool]] = {
    "AccessDenied": (_NOT_ASSUMED, False),
    "AccessDeniedException": (_NOT_ASSUMED, False),
    "ValidationError": (_NOT_SUCH_A_ROLE, False),
    "MalformedPolicyDocument": (_NOT_SUCH_A_ROLE, False),
    "PackedPolicyTooLarge": (_NOT_SUCH_A_ROLE, False),
    "RegionDisabledException": ("STS is not active in this region; set region_name to one where it is", False),
    "InvalidClientTokenId": (
        "STS does not know the access key; check aws_access_key_id, and AWS_ENDPOINT_URL_STS for a store other than "
        "AWS", False
    ),
    "SignatureDoesNotMatch": _MEANINGS["SignatureDoesNotMatch"],
    "ExpiredToken": (_EXPIRED, False),
    "ExpiredTokenException": (_EXPIRED, False),
    "Throttling": ("STS is busy; it is worth another try in a while", True),
}  # fmt: skip

_NO_CREDENTIALS = (
    "no usable credentials were found; set aws_access_key_id and aws_secret_access_key on the S3Location block, "
    "or give this machine a role or profile"
)
_NO_PROFILE = (
    "there is no such profile on this machine; correct profile_name, or AWS_PROFILE, or add it to ~/.aws/config where "
    "the flow runs"
)
_UNREACHABLE = (
    "the endpoint could not be reached; check endpoint_url (for a role's STS, AWS_ENDPOINT_URL_STS), the network and "
    "that the store is up"
)

_NOT_TRUSTED = "the endpoint's certificate is not trusted; ca_bundle or AWS_CA_BUNDLE names your own authority"

# The same for what happens on this side of the wire; a subclass stands before its base.
_LOCAL_MEANINGS: tuple[tuple[str, str, bool], ...] = (
    ("NoCredentialsError", _NO_CREDENTIALS, False),
    ("PartialCredentialsError", _NO_CREDENTIALS, False),
    ("ProfileNotFound", _NO_PROFILE, False),
    ("NoRegionError", "no region is known; set region_name", False),
    ("TokenRetrievalError", _NO_CREDENTIALS, False),
    ("CredentialRetrievalError", _NO_CREDENTIALS, True),
    ("MetadataRetrievalError", _NO_CREDENTIALS, True),
    ("SSLError", _NOT_TRUSTED, False),
    ("ConnectTimeoutError", _UNREACHABLE, True),
    ("ProxyConnectionError", "the proxy could not be reached; check HTTPS_PROXY and NO_PROXY", True),
    ("EndpointConnectionError", _UNREACHABLE, True),
    ("ReadTimeoutError", "the store did not answer in time; it is worth another try in a while", True),
    ("ConnectionClosedError", "the store closed the connection; it is worth another try", True),
    ("ResponseStreamingError", "the object broke off while it was read; it is worth another try", True),
    ("IncompleteReadError", "the object broke off while it was read; it is worth another try", True),
    ("ConnectionError", _UNREACHABLE, True),
    ("HTTPClientError", _UNREACHABLE, True),
    ("ParamValidationError", "these values are not taken; check bucket, key, tags, metadata and the role", False),
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
    said = _sentence(exc.response["Error"].get("Message") or "no more than that")
    who, (meaning, is_transient) = _meaning_of(exc)
    return error(
        f"{what}: {meaning.format(bucket=bucket, region=_region_in(exc))}. {who} says {code}: {said}",
        without_secrets(about.get("RequestId", "")),
        status_code=status or None,
        code=without_secrets(code),
        is_transient=is_transient,
    )


def _meaning_of(exc: Any) -> tuple[str, tuple[str, bool]]:
    """Who refused, what that means, and whether the same call may succeed later."""
    busy = status_of(exc) in (429, 500, 502, 503, 504)
    if exc.operation_name == "AssumeRole":
        unknown = "STS is busy or failing" if busy else "STS refuses it, in its own words"
        return "STS", _ROLE_MEANINGS.get(code_of(exc), (unknown, busy))
    unknown = _BUSY if busy else "the store refuses it, in its own words"
    return "The store", _MEANINGS.get(code_of(exc), (unknown, busy))


def _region_in(exc: Any) -> str:
    headers = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = exc.response["Error"].get("Region") or headers.get("x-amz-bucket-region")
    return f", {region}" if region else ""


def _failed(error: type[N1nError], what: str, exc: Exception) -> N1nError:
    ancestors = [kind.__name__ for kind in type(exc).__mro__]
    _, meaning, is_transient = next(row for row in _LOCAL_MEANINGS if row[0] in ancestors)
    said = _sentence(str(exc))
    return error(f"{what}: {meaning}. boto3 says: {said}", code=ancestors[0], is_transient=is_transient)


def _sentence(said: str) -> str:
    """What was said without secrets, cut, and with a full stop at its end, behind which more may follow."""
    words = without_secrets(said)[:300].rstrip()
    return words if words.endswith((".", "!", "?")) else f"{words}."


def _stripped(exc: Any) -> BaseException:
    """The cause without the signed request, which holds the session token, and without what the answer echoes."""
    exc.request = None
    answer = getattr(exc, "response", None)
    if isinstance(answer, dict):
        said: dict[str, Any] = answer["Error"]
        answer["Error"] = {name: without_secrets(str(said[name])) for name in ("Code", "Message") if name in said}
        answer["ResponseMetadata"] = {"HTTPStatusCode": status_of(exc)}
    return without_secrets_in(exc)


def code_of(exc: Any) -> str:
    """The store's own code in a `ClientError`, such as `NoSuchKey`; empty if it has none."""
    return str(exc.response["Error"].get("Code", ""))


def status_of(exc: Any) -> int:
    """The HTTP status in a `ClientError`; 0 if it has none."""
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
