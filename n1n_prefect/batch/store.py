"""The documents of a batch in its bucket: plan, parts of the results, tables, statistics."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError

from n1n_prefect.blocks import S3Location
from n1n_prefect.errors import UploadError
from n1n_prefect.s3_errors import location_errors


@dataclass(frozen=True)
class BatchStore:
    """A folder in a bucket that holds one batch's documents: those for people at its top, the others below `_batch/`.

    Args:
        location: The bucket, and how it is reached.
        folder: The folder's key, without a slash at its end.
    """

    location: S3Location
    folder: str

    def uri_of(self, name: str = "") -> str:
        """The address of a document, or of the folder."""
        return self.location.uri_of(f"{self.folder}/{name}".rstrip("/"))

    def read(self, name: str) -> bytes | None:
        """A document, or None if there is none.

        Raises:
            UploadError: It cannot be read; absence is not an error.
        """
        key = f"{self.folder}/{name}"
        with location_errors(UploadError, doing="read", bucket=self.location.bucket, key=key):
            try:
                answer = self.location.get_client().get_object(Bucket=self.location.bucket, Key=key)
            except ClientError as exc:
                if exc.response["Error"]["Code"] in ("NoSuchKey", "404"):
                    return None
                raise
            with answer["Body"] as body:
                return body.read()

    def age(self, name: str) -> float | None:
        """How long ago a document was written, in seconds by the store's own clock; None if there is none.

        Raises:
            UploadError: The store refused or could not be reached.
        """
        key = f"{self.folder}/{name}"
        with location_errors(UploadError, doing="read", bucket=self.location.bucket, key=key):
            try:
                head = self.location.get_client().head_object(Bucket=self.location.bucket, Key=key)
            except ClientError as exc:
                if exc.response["Error"]["Code"] in ("NoSuchKey", "404"):
                    return None
                raise
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        return (now - head["LastModified"]).total_seconds()

    def write(self, name: str, data: bytes, media_type: str = "application/json") -> None:
        """Puts a document, in the place of an earlier one.

        Raises:
            UploadError: The store refused or could not be reached.
        """
        key = f"{self.folder}/{name}"
        with location_errors(UploadError, doing="write", bucket=self.location.bucket, key=key):
            self.location.get_client().put_object(
                Bucket=self.location.bucket, Key=key, Body=data, ContentType=media_type, **self.location.extra_args()
            )

    def create(self, name: str, data: bytes) -> bool:
        """Puts a document of JSON unless there is one; whether it was put.

        Of several at the same moment one puts it, where the store obeys `If-None-Match`; see `s3.put`.

        Raises:
            UploadError: The store refused or could not be reached.
        """
        put = self.location.put_bytes(
            data,
            key=f"{self.folder}/{name}",
            sha256=hashlib.sha256(data).hexdigest(),
            media_type="application/json",
            metadata={},
            if_exists="keep",
        )
        return put.created

    def write_file(self, name: str, path: Path, media_type: str) -> None:
        """Puts a local file of any length, in pieces where it is long.

        Raises:
            UploadError: The store refused or could not be reached.
        """
        key = f"{self.folder}/{name}"
        with location_errors(UploadError, doing="write", bucket=self.location.bucket, key=key):
            arguments = {"ContentType": media_type, **self.location.extra_args()}
            try:
                self.location.get_client().upload_file(str(path), self.location.bucket, key, ExtraArgs=arguments)
            except S3UploadFailedError as exc:
                raise exc.__context__ or exc from None

    def delete(self, name: str) -> None:
        """Removes a document, if there is one.

        Raises:
            UploadError: The store refused or could not be reached.
        """
        key = f"{self.folder}/{name}"
        with location_errors(UploadError, doing="delete", bucket=self.location.bucket, key=key):
            self.location.get_client().delete_object(Bucket=self.location.bucket, Key=key)

    def names(self, below: str = "") -> Iterator[str]:
        """The names of what lies below a folder of this one, or below this one itself, in order.

        Raises:
            UploadError: The bucket cannot be listed.
        """
        prefix = f"{self.folder}/{below}/" if below else f"{self.folder}/"
        with location_errors(UploadError, doing="list", bucket=self.location.bucket, key=prefix):
            pages = self.location.get_client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.location.bucket, Prefix=prefix):
                for found in page.get("Contents", ()):
                    yield found["Key"].removeprefix(f"{self.folder}/")
