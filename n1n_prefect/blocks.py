"""The two blocks that people fill in: the gateway's key, and where images go in S3.

Field descriptions are what the Prefect UI shows. Nothing live hangs on a block: clients are
made on demand, so that blocks pickle, copy and travel to workers.
"""

import dataclasses
import json
import logging
import os
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal
from urllib.parse import urlencode

from prefect.blocks.abstract import CredentialsBlock
from pydantic import Field, HttpUrl, SecretStr, field_validator, model_validator

from n1n_prefect import object_keys, s3
from n1n_prefect.addresses import checked_address, checked_api_key, checked_base_url, checked_timeout
from n1n_prefect.aws_blocks import checked_role_arn, checked_role_options, location_fields
from n1n_prefect.careful_block import CarefulBlock
from n1n_prefect.client import DEFAULT_BASE_URL, AsyncN1nClient, N1nClient
from n1n_prefect.errors import InvalidRequestError, SourceError, UploadError
from n1n_prefect.images import GeneratedImage, UploadedImage
from n1n_prefect.pricing import Price
from n1n_prefect.s3_errors import location_errors

_HOME = "https://github.com/n1n-prefect/n1n-prefect"
_LOGO = HttpUrl("https://raw.githubusercontent.com/n1n-prefect/n1n-prefect/main/docs/logo.png")
_logger = logging.getLogger(__name__)


class N1nCredentials(CarefulBlock, CredentialsBlock):
    """Holds an n1n API key and how calls with it are made.

    Example:
        Load stored credentials and generate an image:
        ```python
        from n1n_prefect import N1nCredentials, generate_image

        credentials = N1nCredentials.load("BLOCK_NAME")
        image = generate_image("A red fox in the snow", credentials=credentials)
        ```
    """

    _block_type_name = "n1n Credentials"
    _block_type_slug = "n1n-credentials"
    _description = "An API key of the n1n image gateway, and how calls with it are made, bounded and priced."
    _documentation_url = HttpUrl(f"{_HOME}#credentials-block")
    _logo_url = _LOGO

    api_key: SecretStr = Field(
        title="API key", description="The gateway's API key, as its console shows it, without the word Bearer."
    )
    base_url: str = Field(
        default=DEFAULT_BASE_URL,
        title="Base URL",
        description="The gateway's address. Other n1n hosts and compatible gateways work too.",
    )
    timeout_seconds: float = Field(
        default=300,
        gt=0,
        allow_inf_nan=False,
        description="How long to wait for a whole reply, in seconds. A call cut short may have been billed.",
    )
    account: str = Field(
        default="default",
        min_length=1,
        description=(
            "Whose images these are. Blocks with the same account share results, so that a rotated key pays nothing "
            "again; give tenants that must not share different names."
        ),
    )
    max_in_flight: int = Field(default=8, ge=1, description="The most calls at once from one process.")
    concurrency_limit: str = Field(
        default="",
        description="Name of a Prefect global concurrency limit, where several workers share this key. Empty for none.",
    )
    price_factor: float = Field(
        default=1.0,
        ge=0,
        allow_inf_nan=False,
        description="What this gateway group charges, as a multiple of list prices. Used for estimates only.",
    )
    prices: dict[str, Price] = Field(
        default_factory=dict,
        description=(
            'Your own prices by model, in US dollars per million tokens: {"model": {"input": 0.3, "text": 2.5, '
            '"image": 30}}, with "per_image" for a flat price. List prices hold for the others.'
        ),
    )

    @field_validator("api_key")
    @classmethod
    def _usable_key(cls, api_key: SecretStr) -> SecretStr:
        checked_api_key(api_key.get_secret_value())
        return api_key

    @field_validator("base_url")
    @classmethod
    def _usable_address(cls, base_url: str) -> str:
        return checked_base_url(base_url)

    @field_validator("timeout_seconds")
    @classmethod
    def _usable_timeout(cls, timeout_seconds: float) -> float:
        return checked_timeout(timeout_seconds)

    def get_client(self) -> N1nClient:
        """A client for synchronous code; close it, or use it in a `with` block."""
        return N1nClient(self.api_key.get_secret_value(), self.base_url, timeout_seconds=self.timeout_seconds)

    def get_async_client(self) -> AsyncN1nClient:
        """A client for asynchronous code; close it, or use it in an `async with` block."""
        return AsyncN1nClient(self.api_key.get_secret_value(), self.base_url, timeout_seconds=self.timeout_seconds)


class S3Location(CarefulBlock):
    """Says where in S3, or in a store that speaks its protocol, images are read from and put.

    Example:
        Load a stored location and upload an image to it:
        ```python
        from n1n_prefect import S3Location, upload_image

        destination = S3Location.load("BLOCK_NAME")
        uploaded = upload_image(image, destination=destination)
        ```
    """

    _block_type_name = "S3 Image Location"
    _block_type_slug = "s3-image-location"
    _description = "A bucket and prefix in S3, or in a compatible store, where images are read from and put."
    _documentation_url = HttpUrl(f"{_HOME}#s3-location-block")
    _logo_url = _LOGO

    bucket: str = Field(description="The bucket's name, without s3:// and without a path.")
    prefix: str = Field(default="", description="What comes before every key, such as products/summer. May be empty.")
    aws_access_key_id: str = Field(
        default="",
        title="Access key ID",
        description="Leave empty to use the machine's own role, profile or environment, as boto3 finds it.",
    )
    aws_secret_access_key: SecretStr = Field(
        default=SecretStr(""), title="Secret access key", description="Belongs to the access key ID."
    )
    aws_session_token: SecretStr = Field(
        default=SecretStr(""), title="Session token", description="Only for temporary credentials; they expire."
    )
    profile_name: str = Field(
        default="",
        title="Profile",
        description=(
            "A profile of the AWS configuration on the machine where the flow runs, in place of keys. Empty for "
            "AWS_PROFILE or the default one."
        ),
    )
    assume_role_arn: str = Field(
        default="",
        title="Role to assume",
        description=(
            "A role that the keys, the profile or the machine assume, such as arn:aws:iam::123456789012:role/images. "
            "Its temporary credentials renew themselves. Empty for none."
        ),
    )
    assume_role_session_name: str = Field(
        default="n1n-prefect",
        pattern=r"^[\w+=,.@-]{2,64}$",
        title="Role session name",
        description="What CloudTrail calls the one who acts as the role: 2 to 64 letters, digits and any of _+=,.@-.",
    )
    assume_role_external_id: str = Field(
        default="",
        title="External ID",
        description="What the role's trust policy asks for where it belongs to another account. Empty for none.",
    )
    assume_role_duration_seconds: int = Field(
        default=3600,
        ge=900,
        le=43_200,
        title="Role duration in seconds",
        description=(
            "For how long each set of the role's credentials holds, 900 to 43200 and at most what the role allows; "
            "3600 where a role assumes a role."
        ),
    )
    assume_role_options: dict[str, Any] = Field(
        default_factory=dict,
        title="More about the role",
        description=(
            "Further arguments of AssumeRole under AWS's own names: Policy, PolicyArns, Tags, TransitiveTagKeys, "
            "SourceIdentity, ProvidedContexts."
        ),
    )
    region_name: str = Field(
        default="", title="Region", description="The bucket's region, such as eu-central-1. Empty for boto3's default."
    )
    endpoint_url: str = Field(
        default="",
        title="Endpoint URL",
        description="Address of a store other than AWS, such as https://minio.example.com:9000. Empty for AWS.",
    )
    addressing_style: s3.AddressingStyle = Field(
        default="auto",
        description=(
            "Whether the bucket stands in the path or in the host name. Automatic means the host name on AWS and the "
            "path elsewhere; Aliyun OSS needs virtual."
        ),
    )
    verify: bool = Field(
        default=True,
        title="Verify the certificate",
        description="Whether the store's certificate is checked. Off only for tries: anyone on the way can then read.",
    )
    ca_bundle: str = Field(
        default="",
        title="CA bundle",
        description=(
            "Path of a file with your own authority's certificates in PEM, on the machine where the flow runs. Empty "
            "for AWS_CA_BUNDLE or the usual authorities."
        ),
    )
    key_template: str = Field(
        default=object_keys.DEFAULT_KEY_TEMPLATE,
        description=(
            "How keys are made, from {prefix}, {sha256}, {extension}, {name}, {date}, {model} and {request_key}. Empty "
            "parts between slashes vanish. {name} is what the flow passes as name, such as a SKU; {date} is the day of "
            "the upload in UTC."
        ),
    )
    storage_class: str = Field(
        default="", description="Such as STANDARD_IA or INTELLIGENT_TIERING. Empty for the bucket's default."
    )
    server_side_encryption: Literal["default", "AES256", "aws:kms"] = Field(
        default="default", description="Encryption at rest; default is what the bucket says."
    )
    kms_key_id: str = Field(
        default="",
        title="KMS key ID",
        description="The key for aws:kms encryption. Empty for the account's default key.",
    )
    tags: dict[str, str] = Field(
        default_factory=dict,
        max_length=10,
        description="At most 10 tags that every object gets, for lifecycle rules and cost reports.",
    )
    conditional_put: s3.ConditionalPut = Field(
        default="auto",
        description=(
            "How an existing object is protected. Automatic sends If-None-Match with every upload and, on stores "
            "other than AWS, looks first as well, since some ignore the header or do not know it. Always relies on "
            "the header alone and saves one request; a store that ignores it then overwrites. Never only looks first. "
            "Where a store does not obey the header, two writers at the same moment may both write, and the later "
            "one wins."
        ),
    )
    checksum: s3.Checksum = Field(
        default="sha256",
        description=(
            "What the store verifies the bytes by and keeps. Use md5, or none, for stores that do not know SHA-256 "
            "checksums."
        ),
    )

    @field_validator("bucket")
    @classmethod
    def _usable_bucket(cls, bucket: str) -> str:
        bare, _, rest = bucket.strip().removeprefix("s3://").strip("/").partition("/")
        if rest or "://" in bucket or "/" in bucket:
            raise ValueError(f"{bucket!r} is more than a name; write bucket={bare!r} and prefix={rest!r}")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}", bare):
            raise ValueError(f"{bucket!r} is no bucket's name; they have letters, digits, dots and hyphens")
        return bare

    @field_validator("prefix")
    @classmethod
    def _usable_prefix(cls, prefix: str) -> str:
        if "://" in prefix:
            raise ValueError(f"{prefix!r} is an address; give the part after the bucket alone")
        if "{" in prefix or "}" in prefix:
            raise ValueError(f"{prefix!r} is taken as it stands; names in braces belong in key_template")
        parts = [part for part in prefix.strip().split("/") if part]
        return object_keys.check_key("/".join(parts)) if parts else ""

    @field_validator("endpoint_url")
    @classmethod
    def _usable_endpoint(cls, endpoint_url: str) -> str:
        return checked_address(endpoint_url) if endpoint_url.strip() else ""

    @field_validator("assume_role_arn")
    @classmethod
    def _usable_role(cls, arn: str) -> str:
        return checked_role_arn(arn)

    @field_validator("assume_role_options")
    @classmethod
    def _usable_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        return checked_role_options(options)

    @field_validator("server_side_encryption", mode="before")
    @classmethod
    def _default_encryption(cls, value: Any) -> Any:
        return value or "default"  # as earlier releases stored it

    @field_validator(
        "aws_access_key_id",
        "profile_name",
        "assume_role_external_id",
        "region_name",
        "ca_bundle",
        "storage_class",
        "kms_key_id",
    )
    @classmethod
    def _without_space(cls, value: str) -> str:
        return value.strip()

    @field_validator("aws_secret_access_key", "aws_session_token")
    @classmethod
    def _no_space_in_secrets(cls, secret: SecretStr) -> SecretStr:
        if re.search(r"\s", secret.get_secret_value()):
            raise ValueError("it has spaces or line breaks; copy it again, the secret alone")
        return secret

    @model_validator(mode="after")
    def _fits_together(self) -> "S3Location":
        if bool(self.aws_access_key_id) != bool(self.aws_secret_access_key.get_secret_value()):
            raise ValueError("aws_access_key_id and aws_secret_access_key go together; give both, or neither")
        if self.aws_session_token.get_secret_value() and not self.aws_access_key_id:
            raise ValueError("aws_session_token is given without aws_access_key_id and aws_secret_access_key")
        if self.profile_name and self.aws_access_key_id:
            raise ValueError(
                f"profile_name={self.profile_name!r} and aws_access_key_id are both given; leave the keys empty to use "
                "the profile's, or leave profile_name empty"
            )
        if (self.assume_role_external_id or self.assume_role_options) and not self.assume_role_arn:
            raise ValueError(
                "assume_role_external_id and assume_role_options are about a role; give assume_role_arn as well"
            )
        if self.ca_bundle and not self.verify:
            raise ValueError("ca_bundle is given and verify is off; leave verify on for the bundle to be used")
        if self.kms_key_id and self.server_side_encryption != "aws:kms":
            raise ValueError("kms_key_id needs server_side_encryption='aws:kms'")
        sample = "name" if "{name}" in self.key_template else None
        self._fill("0" * 64, "image/png", "model", "0" * 64, sample)
        return self

    def get_client(self) -> Any:
        """The boto3 client for this location; one a process, shared by threads."""
        verify = self._verify()
        with location_errors(UploadError, doing="connect to", bucket=self.bucket), _clients_lock:
            return _client(
                os.getpid(),
                self.aws_access_key_id,
                self.aws_secret_access_key,
                self.aws_session_token,
                self.profile_name,
                json.dumps(self._role(), sort_keys=True),
                self.region_name,
                self.endpoint_url,
                self.addressing_style,
                verify,
            )

    def _role(self) -> dict[str, Any]:
        """The arguments of AssumeRole; empty where no role is assumed."""
        if not self.assume_role_arn:
            return {}
        external_id = {"ExternalId": self.assume_role_external_id} if self.assume_role_external_id else {}
        return {
            "RoleArn": self.assume_role_arn,
            "RoleSessionName": self.assume_role_session_name,
            "DurationSeconds": self.assume_role_duration_seconds,
            **external_id,
            **self.assume_role_options,
        }

    def _verify(self) -> bool | str:
        """What the store's certificate is checked by: the usual authorities, a file, or nothing."""
        if not self.ca_bundle:
            return self.verify
        path = Path(self.ca_bundle).expanduser()
        if not path.is_file():
            raise InvalidRequestError(
                f"ca_bundle={self.ca_bundle!r} is no file on this machine; put your authority's certificates there, or "
                "correct the path on the S3Location block."
            )
        return str(path)

    def uri_of(self, key: str) -> str:
        """A key as an `s3://` address."""
        return f"s3://{self.bucket}/{key}"

    def key_for(self, image: GeneratedImage | UploadedImage, *, name: str | None = None, key: str | None = None) -> str:
        """The key an image gets: what the template makes, or `key` itself where that is given.

        Raises:
            InvalidRequestError: Both a name and a key are given, or the key is not usable.
        """
        if key is None:
            return self._fill(image.sha256, image.media_type, image.model, image.request_key, name)
        if name is not None:
            raise InvalidRequestError(f"name={name!r} and key={key!r} are both given; a key is used as it stands.")
        return object_keys.check_key(key)

    def _fill(self, sha256: str, media_type: str, model: str, request_key: str, name: str | None) -> str:
        return object_keys.fill_key(
            self.key_template,
            prefix=self.prefix,
            sha256=sha256,
            extension=object_keys.extension_of(media_type),
            name=name,
            date=datetime.now(timezone.utc).date().isoformat(),
            model=model,
            request_key=request_key,
        )

    def put_image(
        self,
        data: bytes,
        *,
        image: GeneratedImage,
        name: str | None = None,
        key: str | None = None,
        if_exists: s3.IfExists = "fail",
        metadata: Mapping[str, Any] | None = None,
    ) -> UploadedImage:
        """Puts an image's original bytes into the bucket, see `n1n_prefect.s3.put`.

        Args:
            data: The original bytes.
            image: What they are; said in the object's metadata under keys that start with `n1n-`.
            name: Fills `{name}` in the key template.
            key: The whole key, in place of the template's.
            if_exists: What to do about an object with other bytes: `fail`, `keep` it, or `replace` it.
            metadata: Your own metadata beside ours.

        Returns:
            The object. Where another one was kept, its own SHA-256 (empty if unknown) and length, no
            media type and no pixels, and `created` False.

        Raises:
            InvalidRequestError: The name, key or metadata is not usable.
            UploadError: The store refused or could not be reached, or holds another object there.
        """
        if len(data) != image.size_bytes:
            raise InvalidRequestError(f"{len(data):,} bytes were given for an image of {image.size_bytes:,}.")
        at = self.key_for(image, name=name, key=key)
        done = self.put_bytes(
            data,
            key=at,
            sha256=image.sha256,
            media_type=image.media_type,
            metadata={**_origin_of(image), **object_keys.own_metadata(metadata)},
            if_exists=if_exists,
        )
        return self._uploaded(image, at, done, original=image)

    def put_bytes(
        self,
        data: bytes,
        *,
        key: str,
        sha256: str,
        media_type: str,
        metadata: Mapping[str, Any],
        if_exists: s3.IfExists = "fail",
    ) -> s3.Put:
        """Puts a file under a key as this location says, see `n1n_prefect.s3.put`, whose arguments these are.

        Raises:
            UploadError: The store refused or could not be reached, or holds another object there.
        """
        return s3.put(
            self.get_client(),
            bucket=self.bucket,
            key=key,
            data=data,
            sha256=sha256,
            media_type=media_type,
            metadata=metadata,
            if_exists=if_exists,
            conditional=self.conditional_put,
            checksum=self.checksum,
            extra_args=self.extra_args(),
        )

    def copy_image(
        self,
        uploaded: UploadedImage,
        *,
        name: str | None = None,
        key: str | None = None,
        if_exists: s3.IfExists = "fail",
        metadata: Mapping[str, Any] | None = None,
    ) -> UploadedImage:
        """Copies an uploaded image to this location inside the store, see `n1n_prefect.s3.copy`.

        The arguments are those of `put_image`; metadata is added to what the source has.
        """
        at = self.key_for(uploaded, name=name, key=key)
        done = s3.copy(
            self.get_client(),
            source_bucket=uploaded.bucket,
            source_key=uploaded.key,
            bucket=self.bucket,
            key=at,
            sha256=uploaded.sha256,
            size_bytes=uploaded.size_bytes,
            etag=uploaded.etag,
            metadata=object_keys.own_metadata(metadata),
            if_exists=if_exists,
            extra_args={**self.extra_args(), **({"TaggingDirective": "REPLACE"} if self.tags else {})},
        )
        return self._uploaded(uploaded, at, done, original=uploaded.original)

    def delete_image(self, uploaded: UploadedImage) -> bool:
        """Removes an uploaded image, and never what somebody else put in its place, see `n1n_prefect.s3.delete`.

        Returns:
            Whether it was there.

        Raises:
            InvalidRequestError: It is another image, which `if_exists="keep"` left in its place.
            UploadError: Something else is there by now, or the store refused or could not be reached.
        """
        if not uploaded.media_type:
            raise InvalidRequestError(f"{uploaded.uri} is another image, which was kept; it is not ours to delete.")
        return s3.delete(
            self.get_client(),
            bucket=uploaded.bucket,
            key=uploaded.key,
            sha256=uploaded.sha256,
            size_bytes=uploaded.size_bytes,
            version_id=uploaded.version_id,
        )

    def extra_args(self) -> dict[str, str]:
        """What boto3's writing calls are given for each object: storage class, encryption and tags."""
        given = {
            "StorageClass": self.storage_class,
            "ServerSideEncryption": self.server_side_encryption.replace("default", ""),
            "SSEKMSKeyId": self.kms_key_id,
            "Tagging": urlencode(self.tags),
        }
        return {name: value for name, value in given.items() if value}

    def _uploaded(
        self, image: GeneratedImage | UploadedImage, key: str, done: s3.Put, original: GeneratedImage | None
    ) -> UploadedImage:
        uploaded = UploadedImage(
            bucket=self.bucket,
            key=key,
            sha256=done.sha256,
            media_type=image.media_type,
            width=image.width,
            height=image.height,
            size_bytes=done.size_bytes,
            etag=done.etag,
            version_id=done.version_id,
            model=image.model,
            request_key=image.request_key,
            estimated_cost_usd=image.estimated_cost_usd,
            created=done.created,
            original=original,
            region=self._aws_region(),
        )
        if not done.kept_other:
            return uploaded
        _logger.warning("%s holds another image and was kept; %s was not uploaded.", uploaded.uri, image.sha256)
        return dataclasses.replace(uploaded, media_type="", width=0, height=0)

    def _aws_region(self) -> str:
        """The region on AWS; empty for another store, also where the environment names its endpoint."""
        about = self.get_client().meta
        return str(about.region_name or "") if s3.is_aws(about.endpoint_url) else ""

    def presigned_url(self, of: "str | UploadedImage", *, expires_seconds: int = 900) -> str:
        """An address by which anybody can fetch an object for a while; made here, asking nobody.

        Whoever has it needs no key: do not log or store it. With temporary credentials it ends with them.

        Args:
            of: The object: its key in this location's bucket, its `s3://` address, or an upload.
            expires_seconds: How long it is good for, 1 second to 7 days.

        Raises:
            InvalidRequestError: That is no object's address, or no time.
            SourceError: There are no credentials to sign with.
        """
        if not 1 <= expires_seconds <= _LONGEST_LINK:
            raise InvalidRequestError(
                f"expires_seconds={expires_seconds!r} is not 1 to {_LONGEST_LINK}, which is 7 days."
            )
        bucket, key = _object_of(of, self.bucket)
        with location_errors(SourceError, doing="sign an address of", bucket=bucket, key=key):
            return str(
                self.get_client().generate_presigned_url(
                    "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=int(expires_seconds)
                )
            )

    def check_there(self, of: "str | UploadedImage") -> None:
        """Refuses an object that is not there, or that these credentials may not read.

        Args:
            of: The object, as for `presigned_url`.

        Raises:
            InvalidRequestError: That is no object's address.
            SourceError: It is missing, forbidden or out of reach.
        """
        bucket, key = _object_of(of, self.bucket)
        with location_errors(SourceError, doing="read", bucket=bucket, key=key):
            self.get_client().head_object(Bucket=bucket, Key=key)

    def read(self, bucket: str, key: str, max_bytes: int) -> bytes:
        """The bytes of an object in any bucket that these credentials may read.

        Raises:
            SourceError: It is missing, forbidden, out of reach, or larger than `max_bytes`.
        """
        return s3.read(self.get_client(), bucket, key, max_bytes)

    @classmethod
    def from_block(
        cls, block: Any, *, bucket: str | None = None, prefix: str | None = None, **fields: Any
    ) -> "S3Location":
        """The location that a prefect-aws block describes.

        Args:
            block: An `S3Bucket`, `AwsCredentials` or `MinIOCredentials` block, or another `S3Location`.
            bucket: The bucket's name; needed where the block names none.
            prefix: In place of the block's folder.
            **fields: Other fields of `S3Location`.

        Raises:
            InvalidRequestError: The block is of another kind, names no bucket, or says something that a
                location cannot keep, such as an MFA code, which would assume a role only once.
        """
        given = {"bucket": bucket, "prefix": prefix, **fields}
        made: dict[str, Any] = {
            **location_fields(block, fields, S3Location),
            **{name: value for name, value in given.items() if value is not None},
        }
        if "bucket" not in made:
            raise InvalidRequestError(f"{type(block).__name__} names no bucket; pass bucket=.")
        return cls(**made)


_LONGEST_LINK = 7 * 86_400  # seconds; S3's signatures last no longer


def _object_of(named: "str | UploadedImage", bucket: str) -> tuple[str, str]:
    if isinstance(named, UploadedImage):
        return named.bucket, named.key
    if "://" in named:
        scheme, _, rest = named.partition("://")
        bucket, _, named = rest.partition("/")
        if scheme != "s3" or not re.fullmatch(r"[A-Za-z0-9._-]+", bucket):
            raise InvalidRequestError("That is no address of an object in S3; write s3://bucket/key.")
    if not named:
        raise InvalidRequestError("There is no key; write s3://bucket/key, or the key alone.")
    return bucket, named


_clients_lock = Lock()


@lru_cache(maxsize=16)
def _client(
    _process: int,
    key_id: str,
    secret: SecretStr,
    token: SecretStr,
    profile: str,
    role: str,
    region: str,
    endpoint: str,
    style: s3.AddressingStyle,
    verify: bool | str,
) -> Any:
    return s3.make_client(
        aws_access_key_id=key_id,
        aws_secret_access_key=secret.get_secret_value(),
        aws_session_token=token.get_secret_value(),
        profile_name=profile,
        role=json.loads(role),
        region_name=region,
        endpoint_url=endpoint,
        addressing_style=style,
        verify=verify,
    )


def _origin_of(image: GeneratedImage) -> dict[str, Any]:
    """How an image came about, as metadata; the prompt stays out, since buckets are often shared."""
    about = {
        "model": image.model,
        "model-version": image.model_version,
        "request-key": image.request_key,
        "response-id": image.response_id,
        "aspect-ratio": image.aspect_ratio,
        "image-size": image.image_size,
        "width": image.width,
        "height": image.height,
        "media-type": image.media_type,
    }
    return {f"n1n-{name}": value for name, value in about.items() if value}
