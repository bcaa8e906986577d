"""Whether the bucket takes images as uploads send them; its small probe objects are removed again."""

import base64
import hashlib
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError

from n1n_prefect import s3
from n1n_prefect.cli.failures import one_line
from n1n_prefect.cli.findings import Check, Found
from n1n_prefect.cli.patient import Patient
from n1n_prefect.errors import UploadError
from n1n_prefect.s3_errors import code_of, location_errors, status_of

if TYPE_CHECKING:
    from n1n_prefect.blocks import S3Location

_PROBE = b"n1n-prefect doctor was here, and removes this again.\n"
_REFUSED_CONDITION = (409, 412)
_UNKNOWN_CONDITION = (400, 405, 501)  # of which uploads take the code for "knows no conditions"


def _location(patient: Patient) -> Found:
    block = patient.location
    where = f"{block.uri_of(block.prefix)} at {block.endpoint_url or 'AWS'}"
    keys = "keys of the block" if block.aws_access_key_id else "keys as boto3 finds them here"
    return "ok", f"block {patient.named.location!r}: {where}, {keys}"


def _bucket(patient: Patient) -> Found:
    """Whether an image could be written, read and removed."""
    block = patient.location
    with _probe(block) as probe:
        probe.wrote(
            s3.put(
                probe.client,
                bucket=block.bucket,
                key=probe.key,
                data=_PROBE,
                sha256=hashlib.sha256(_PROBE).hexdigest(),
                media_type="text/plain",
                conditional=block.conditional_put,
                checksum=block.checksum,
                extra_args=block.extra_args(),
            ).version_id
        )
        with location_errors(UploadError, doing="read", bucket=block.bucket, key=probe.key):
            got = probe.client.get_object(Bucket=block.bucket, Key=probe.key)["Body"].read()
    if got != _PROBE:
        return "wrong", f"{block.uri_of(probe.key)} came back with other bytes; use another store"
    if probe.left:
        return "warning", f"{block.bucket!r} takes images, but {probe.left}"
    return "ok", f"{block.bucket!r} can be written, read and removed from"


def _conditions(patient: Patient) -> Found:
    """Whether a second write of one key is refused where it asks to be the first."""
    block = patient.location
    kept = "two writers at the same moment may both write, and the later one wins"
    if block.conditional_put == "never":
        return "warning", f"the block sends none and looks first; {kept}. Let one flow write to one prefix"
    with _probe(block) as probe:
        first = probe.status_of_write(IfNoneMatch="*")
        if first >= 400 and first not in _UNKNOWN_CONDITION:
            probe.write(IfNoneMatch="*")  # for what the refusal means
        status = probe.status_of_write(IfNoneMatch="*") if first < 400 else first
    if status in _REFUSED_CONDITION:
        return "ok", "If-None-Match is obeyed: of two writers at one moment one wins, and the other is told"
    if status in _UNKNOWN_CONDITION and block.conditional_put == "always":
        return "wrong", (
            f"the store refuses If-None-Match (HTTP {status}), which conditional_put of block "
            f"{patient.named.location!r} always sends, so that no image is uploaded; set conditional_put to auto"
        )
    if block.conditional_put == "always":
        return "wrong", (
            f"If-None-Match is not obeyed, and conditional_put of block {patient.named.location!r} relies on it "
            "alone, so that images are overwritten; set conditional_put to auto"
        )
    return "warning", f"If-None-Match is not obeyed; uploads look first, but {kept}. Let one flow write to one prefix"


def _checksums(patient: Patient) -> Found:
    """Whether bytes that do not have the checksum sent with them are refused."""
    kind = patient.location.checksum
    if kind == "none":
        return "warning", "the block asks for none, so that bytes damaged on the way are kept; set checksum to sha256"
    if _refuses_damage(patient.location, kind):
        return "ok", f"bytes with another {kind} than was sent are refused"
    other = "md5" if kind == "sha256" else "sha256"
    if _refuses_damage(patient.location, other):
        return "warning", f"{kind} is not verified by the store, {other} is; set checksum of the block to {other}"
    return "warning", "the store keeps bytes whose checksum is wrong; what arrives damaged is not noticed by it"


def _refuses_damage(block: "S3Location", kind: str) -> bool:
    wrong = hashlib.sha256(b"other bytes").digest() if kind == "sha256" else s3.md5(b"other bytes")
    named = {
        "sha256": {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": _text(wrong)},
        "md5": {"ContentMD5": _text(wrong)},
    }
    with _probe(block) as probe:
        return probe.status_of_write(**named[kind]) >= 400


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


class _Probe:
    """A small object below the location's prefix."""

    def __init__(self, block: "S3Location") -> None:
        self.block = block
        self.client = block.get_client()
        self.key = "/".join(filter(None, (block.prefix, f"n1n-doctor-{secrets.token_hex(8)}.txt")))
        self.versions: list[str] = []
        """The version that each write made, to be removed; empty where the bucket keeps none."""
        self.left = ""

    def write(self, **more: Any) -> None:
        """Writes it.

        Raises:
            UploadError: The store refused.
        """
        with location_errors(UploadError, doing="write", bucket=self.block.bucket, key=self.key):
            self._put(more)

    def status_of_write(self, **more: Any) -> int:
        """The HTTP status with which a write is answered, 200 if it is taken."""
        try:
            self._put(more)
        except self.client.exceptions.ClientError as exc:
            return status_of(exc) or 400
        return 200

    def _put(self, more: dict[str, Any]) -> None:
        given = {"Bucket": self.block.bucket, "Key": self.key, "Body": _PROBE, "ContentType": "text/plain"}
        answer = self.client.put_object(**given, **self.block.extra_args(), **more)
        self.wrote(answer.get("VersionId", ""))

    def wrote(self, version_id: str) -> None:
        """Notes that it is there, or another version of it."""
        if version_id not in self.versions:
            self.versions.append(version_id)

    def remove(self) -> None:
        """Removes all that was written; where that fails, `left` says so and what was found out still counts."""
        for version in self.versions:
            which = {"VersionId": version} if version else {}
            try:
                self.client.delete_object(Bucket=self.block.bucket, Key=self.key, **which)
            except self.client.exceptions.ClientError as exc:
                self._remains(f"may not be removed from ({code_of(exc)})")
            except BotoCoreError as exc:
                self._remains(f"the probe was not removed ({one_line(exc)})")

    def _remains(self, why: str) -> None:
        kind = "all versions of " if any(self.versions) else ""
        self.left = f"{why}; remove {kind}{self.block.uri_of(self.key)} by hand"


@contextmanager
def _probe(block: "S3Location") -> Generator[_Probe]:
    probe = _Probe(block)
    try:
        yield probe
    finally:
        probe.remove()


LOCATION_CHECKS = (
    Check("location", _location, ("server", "versions")),
    Check("bucket", _bucket, ("location",)),
    Check("conditional puts", _conditions, ("bucket",)),
    Check("checksums", _checksums, ("bucket",)),
)
