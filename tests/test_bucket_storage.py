"""An `S3Bucket` of prefect-aws as result storage, from the block that a team has to the run on another machine."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_aws import AwsClientParameters, AwsCredentials, MinIOCredentials, S3Bucket

from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.cli import prune
from n1n_prefect.testing import LocalGateway
from tests.prefect_server import PrefectServer
from tests.s3_servers import RolesServer, S3Server, new_bucket

pytestmark = pytest.mark.prefect
HERE = "tests/kept_in_a_bucket.py"
PROMPTS = ["a fox", "an owl"]


@pytest.fixture
def server(prefect_server: PrefectServer) -> Iterator[PrefectServer]:
    """The session's server, which this process talks to as well."""
    with temporary_settings({PREFECT_API_URL: prefect_server.api_url}):
        yield prefect_server


@pytest.fixture
def gateway(n1n_gateway_factory: Any) -> LocalGateway:
    return n1n_gateway_factory(canned=True, grain=False)


def of_aws(server: S3Server, bucket: str, folder: str = "", **fields: Any) -> S3Bucket:
    keys = AwsCredentials(
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=server.endpoint_url),
        **fields,
    )
    return S3Bucket(bucket_name=bucket, bucket_folder=folder, credentials=keys)


def of_minio(server: S3Server, bucket: str, folder: str = "") -> S3Bucket:
    keys = MinIOCredentials(
        minio_root_user=server.access_key,
        minio_root_password=server.secret_key,
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=server.endpoint_url),
    )
    return S3Bucket(bucket_name=bucket, bucket_folder=folder, credentials=keys)


@pytest.fixture(params=["moto", "folder on moto", "folder on rclone", "as a role"])
def block(request: pytest.FixtureRequest) -> S3Bucket:
    """A bucket with the credentials that people have."""

    def made(name: str) -> Any:
        return request.getfixturevalue(name)

    match request.param:
        case "moto":
            return of_aws(made("moto_server"), new_bucket(made("moto_client")))
        case "folder on moto":
            return of_aws(made("moto_server"), new_bucket(made("moto_client")), "flows/of the team")
        case "folder on rclone":
            return of_minio(made("rclone_server"), new_bucket(made("rclone_client")), "flows")
        case _:
            roles: RolesServer = made("roles_server")
            return of_aws(roles.worker, roles.bucket, "as-a-role", assume_role_arn=roles.role_arn)


def keys_in(block: S3Bucket) -> set[str]:
    """What lies in the bucket's folder."""
    client = S3Location.from_block(block).get_client()
    folder = f"{block.bucket_folder}/" if block.bucket_folder else ""
    found = client.list_objects_v2(Bucket=block.bucket_name, Prefix=folder).get("Contents", [])
    return {entry["Key"].removeprefix(folder) for entry in found}


def uploads_in(block: S3Bucket) -> set[str]:
    """The pictures that a location made of the bucket has put there, beside what the results need."""
    return {key for key in keys_in(block) if key.endswith((".png", ".jpg")) and "/" not in key}


def test_another_machine_goes_on_with_what_the_bucket_has(
    server: PrefectServer, gateway: LocalGateway, block: S3Bucket, tmp_path: Path, request: pytest.FixtureRequest
):
    name = request.node.callspec.id.replace(" ", "-")
    block.save(f"kept-{name}", overwrite=True)
    N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url).save(f"kept-{name}", overwrite=True)
    stored = {"PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK": f"s3-bucket/kept-{name}"}

    one = {"PREFECT_HOME": str(tmp_path / "one"), **stored}
    first = ["python", HERE, f"run-{name}", f"kept-{name}", f"kept-{name}", *PROMPTS]
    assert "told to break off" in server.run(*first, check=False, BREAKS_OFF="1", **one)
    journal = {key for key in keys_in(block) if key.startswith("n1n/journal/")}
    assert sorted(key.rpartition(".")[2] for key in journal) == ["answered", "answered", "sent", "sent"]
    images = uploads_in(block)
    assert len(images) == 2
    assert not list((tmp_path / "one").rglob("*.answered"))

    two = {"PREFECT_HOME": str(tmp_path / "two"), **stored}
    said = server.run("n1n-prefect", "resume", f"run-{name}", "--entrypoint", f"{HERE}:draw_and_upload", **two)
    assert f"is looked for in s3://{block.bucket_name}" in said
    assert sorted(call.prompt_excerpt for call in gateway.ledger.billed) == PROMPTS
    assert uploads_in(block) == images

    command = ["n1n-prefect", "prune", "--storage", f"s3-bucket/kept-{name}", "--older-than", "1h"]
    assert "0.0 MB removed" in server.run(*command)
    assert journal <= keys_in(block)
    in_a_minute = argparse.Namespace(older_than=-60, storage=("s3-bucket", f"kept-{name}"), dry_run=False)
    assert prune.run(in_a_minute) == 0
    left = keys_in(block)
    assert {key for key in left if key.startswith("n1n/")} == {"n1n/probe"}
    assert images <= left
