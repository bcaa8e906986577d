import logging
from typing import Any

import pytest
from prefect_aws import AwsClientParameters, AwsCredentials, MinIOCredentials, S3Bucket

from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.errors import InvalidRequestError
from tests.examples import generated
from tests.s3_servers import RolesServer, S3Server, new_bucket

FOX = b"\x89PNG a red fox"


class TestFromBlock:
    """Blocks of prefect-aws become a location that works as they do."""

    def aws(self, server: S3Server, **fields: Any) -> AwsCredentials:
        return AwsCredentials(
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            region_name="us-east-1",
            aws_client_parameters=AwsClientParameters(endpoint_url=server.endpoint_url),
            **fields,
        )

    def minio(self, server: S3Server, endpoint_url: str | None = None) -> MinIOCredentials:
        return MinIOCredentials(
            minio_root_user=server.access_key,
            minio_root_password=server.secret_key,
            aws_client_parameters=AwsClientParameters(endpoint_url=endpoint_url),
        )

    def test_aws_credentials(self, moto_server: S3Server, moto_client: Any):
        bucket = new_bucket(moto_client)
        location = S3Location.from_block(self.aws(moto_server, aws_session_token="token"), bucket=bucket, prefix="p")
        assert location.aws_session_token.get_secret_value() == "token"
        assert location.region_name == "us-east-1"
        assert location.put_image(FOX, image=generated(FOX)).uri == f"s3://{bucket}/p/{generated(FOX).sha256}.png"

    def test_minio_credentials_really_sign(self, rclone_server: S3Server, rclone_client: Any):
        bucket = new_bucket(rclone_client)
        block = self.minio(rclone_server, rclone_server.endpoint_url)
        location = S3Location.from_block(block, bucket=bucket, checksum="md5")
        assert location.put_image(FOX, image=generated(FOX)).created
        assert location.checksum == "md5"

    def test_s3_bucket(self, moto_server: S3Server, moto_client: Any):
        bucket = S3Bucket(
            bucket_name=new_bucket(moto_client), credentials=self.aws(moto_server), bucket_folder="/summer/"
        )
        location = S3Location.from_block(bucket)
        assert (location.bucket, location.prefix) == (bucket.bucket_name, "summer")
        assert S3Location.from_block(bucket, prefix="winter").prefix == "winter"
        assert S3Location.from_block(bucket, prefix="").prefix == ""
        assert location.put_image(FOX, image=generated(FOX)).created

    def test_s3_bucket_on_minio(self, moto_server: S3Server):
        bucket = S3Bucket(bucket_name="shop", credentials=self.minio(moto_server, moto_server.endpoint_url))
        location = S3Location.from_block(bucket)
        assert location.aws_access_key_id == moto_server.access_key
        assert location.endpoint_url == moto_server.endpoint_url

    def test_empty_credentials_leave_it_to_boto(self):
        location = S3Location.from_block(AwsCredentials(), bucket="shop")
        assert location.aws_access_key_id == location.region_name == location.endpoint_url == ""

    def test_location_with_other_fields(self, s3_location: S3Location):
        other = S3Location.from_block(s3_location, prefix="other", conditional_put="always")
        assert (other.bucket, other.prefix, other.conditional_put) == (s3_location.bucket, "other", "always")
        assert other.get_client() is s3_location.get_client()

    def test_addressing_style_comes_along_and_the_rest_is_named(self, caplog: pytest.LogCaptureFixture):
        s3 = {"addressing_style": "virtual", "use_accelerate_endpoint": True}
        config = {"s3": s3, "read_timeout": 5, "proxies": {}, "region_name": "eu-west-1"}
        parameters = AwsClientParameters(config=config, api_version="2006-03-01")
        block = AwsCredentials(aws_client_parameters=parameters)
        with caplog.at_level(logging.WARNING, "n1n_prefect.aws_blocks"):
            location = S3Location.from_block(block, bucket="shop")
        assert (location.addressing_style, location.region_name) == ("virtual", "eu-west-1")
        assert "config, proxies, read_timeout, s3.use_accelerate_endpoint is not taken over" in caplog.text
        assert "api_version is not taken over" in caplog.text

    def test_profile(self):
        assert S3Location.from_block(AwsCredentials(profile_name="shop"), bucket="shop").profile_name == "shop"

    def test_profile_and_keys_are_one_too_many(self, moto_server: S3Server):
        with pytest.raises(InvalidRequestError, match="leave the keys empty to use the profile's"):
            S3Location.from_block(self.aws(moto_server, profile_name="shop"), bucket="shop")

    @pytest.mark.parametrize(
        ("parameters", "verify", "ca_bundle"),
        [
            ({}, True, ""),
            ({"verify": True}, True, ""),
            ({"verify": False}, False, ""),
            ({"verify_cert_path": __file__}, True, __file__),
            ({"verify": True, "verify_cert_path": __file__}, True, __file__),
        ],
    )
    def test_trust(self, parameters: dict[str, Any], verify: bool, ca_bundle: str):
        location = S3Location.from_block(AwsCredentials(aws_client_parameters=parameters), bucket="shop")
        assert (location.verify, location.ca_bundle) == (verify, ca_bundle)

    def test_path_where_it_stood_once(self):
        with pytest.warns(DeprecationWarning, match="verify should be a boolean"):
            parameters = AwsClientParameters(verify=__file__)
        location = S3Location.from_block(AwsCredentials(aws_client_parameters=parameters), bucket="shop")
        assert (location.verify, location.ca_bundle) == (True, __file__)

    def test_assumed_role(self, roles_server: RolesServer):
        said = {"RoleSessionName": "flows", "DurationSeconds": 900, "ExternalId": "x-1", "SourceIdentity": "team"}
        keys = self.aws(roles_server.worker, assume_role_arn=roles_server.role_arn, assume_role_kwargs=said)
        bucket = S3Bucket(bucket_name=roles_server.bucket, credentials=keys, bucket_folder="from-a-block")
        location = S3Location.from_block(bucket)
        assert (location.assume_role_session_name, location.assume_role_duration_seconds) == ("flows", 900)
        assert (location.assume_role_external_id, location.assume_role_options) == ("x-1", {"SourceIdentity": "team"})
        assert location.put_image(FOX, image=generated(FOX)).key in roles_server.objects()

    def test_defaults_of_a_role_are_ours(self):
        block = AwsCredentials(assume_role_arn="arn:aws:iam::123456789012:role/images")
        location = S3Location.from_block(block, bucket="shop")
        assert (location.assume_role_session_name, location.assume_role_duration_seconds) == ("n1n-prefect", 3600)

    def test_what_is_said_of_no_role_is_nothing(self):
        block = AwsCredentials(assume_role_kwargs={"ExternalId": "x-1", "TokenCode": "123456"})
        assert S3Location.from_block(block, bucket="shop") == S3Location(bucket="shop")

    @pytest.mark.parametrize("block", [AwsCredentials(), S3Location])
    def test_nothing_but_a_bucket_is_missing(self, block: Any):
        if block is S3Location:
            with pytest.raises(InvalidRequestError, match="is no S3 block"):
                S3Location.from_block(block)
        else:
            with pytest.raises(InvalidRequestError, match="AwsCredentials names no bucket; pass bucket="):
                S3Location.from_block(block)

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"aws_client_parameters": {"use_ssl": False}}, "use_ssl.* endpoint_url"),
            ({"assume_role_kwargs": {"SerialNumber": "arn:aws:iam::1:mfa/me"}}, "SerialNumber.* works once"),
            ({"assume_role_kwargs": {"TokenCode": "123456"}}, "TokenCode.* works once"),
        ],
    )
    def test_what_would_be_lost_is_refused(self, fields: dict[str, Any], said: str):
        block = AwsCredentials(assume_role_arn="arn:aws:iam::123456789012:role/images", **fields)
        with pytest.raises(InvalidRequestError, match=said):
            S3Location.from_block(block, bucket="shop")

    def test_minio_without_an_endpoint_does_not_go_to_aws(self, moto_server: S3Server):
        with pytest.raises(InvalidRequestError, match="endpoint_url"):
            S3Location.from_block(self.minio(moto_server), bucket="shop")
        location = S3Location.from_block(self.minio(moto_server), bucket="shop", endpoint_url=moto_server.endpoint_url)
        assert location.endpoint_url == moto_server.endpoint_url

    @pytest.mark.parametrize(
        "block", [N1nCredentials(api_key="sk-0123456789abcdef"), "s3://shop", None, {"bucket": "shop"}]
    )
    def test_other_things(self, block: Any):
        with pytest.raises(InvalidRequestError, match=r"is no S3 block; give an S3Bucket"):
            S3Location.from_block(block, bucket="shop")

    def test_misspelt_field(self):
        with pytest.raises(InvalidRequestError, match="did you mean 'checksum'"):
            S3Location.from_block(AwsCredentials(), bucket="shop", cheksum="md5")
