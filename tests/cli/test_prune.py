import argparse
import os
import time

import pytest
from prefect.filesystems import LocalFileSystem
from prefect.settings import (
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK,
    temporary_settings,
)

from n1n_prefect import N1nCredentials, generate_image
from n1n_prefect.cli import main, prune
from n1n_prefect.journal import journal_key, original_key
from tests.s3_servers import new_bucket

DAY = 86_400
ORIGINAL = original_key("a" * 64, "image/png")


def put(root, name, days=0.0, data=b"x" * 500_000):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (time.time() - days * DAY,) * 2)


def put_request(root, days):
    put(root, journal_key("a" * 64, 0, "sent"), days, b'{"schema":1}')
    put(root, ORIGINAL, days)
    put(root, "n1n/spool/b-0.reply", days)


def files_below(root):
    return sorted(path.name for path in root.rglob("*") if path.is_file())


@pytest.fixture
def local(tmp_path):
    """The local storage of this process."""
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "local"}):
        yield tmp_path / "local"


class TestAge:
    @pytest.mark.parametrize(
        ("age", "said"),
        [
            ("0d", "'0d' would take from runs that still go on"),
            ("59m", "give 1h to"),
            ("9999999w", "give 1h to"),
            ("14", "give a number of m, h, d or w"),
            ("14y", "give a number of m, h, d or w"),
            ("-1d", "is no age"),
            ("1.5d", "is no age"),
            ("d", "is no age"),
            ("٣d", "is no age"),
            ("", "is no age"),
        ],
    )
    def test_that_cannot_be_is_two(self, age, said, capsys):
        assert main(["prune", f"--older-than={age}"]) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]

    @pytest.mark.parametrize(("age", "is_gone"), [("60m", True), ("3h", False), ("1d", False), ("1w", False)])
    def test_has_units(self, age, is_gone, local):
        put_request(local, days=2 / 24)
        assert main(["prune", "--older-than", age]) == 0
        assert (files_below(local) == []) is is_gone

    def test_must_be_given(self, capsys):
        assert main(["prune"]) == 2
        assert "--older-than" in capsys.readouterr().err


class TestLocal:
    def test_says_what_went(self, local, capsys):
        put_request(local, days=20)
        assert main(["prune", "--older-than", "14d", "--dry-run"]) == 0
        told = capsys.readouterr().out
        assert "nothing was, for this is a dry run" in told
        assert len(files_below(local)) == 3
        assert main(["prune", "--older-than", "14d"]) == 0
        said = capsys.readouterr().out
        assert told.splitlines()[:4] == said.splitlines()[:4]
        assert said.splitlines()[0].startswith(f"{local / 'n1n'}, last written before 20")
        assert [line.split() for line in said.splitlines()[1:]] == [
            ["journal", "records", "1", "0.0", "MB"],
            ["originals", "1", "0.5", "MB"],
            ["spooled", "replies", "1", "0.5", "MB"],
            ["in", "all", "3", "1.0", "MB", "removed"],
        ]
        assert files_below(local) == []

    def test_a_request_that_is_not_old_keeps_all_of_it(self, local):
        put_request(local, days=20)
        put(
            local,
            journal_key("a" * 64, 0, "answered"),
            1,
            b'{"schema":1,"image":{"storage_key":"%b"}}' % ORIGINAL.encode(),
        )
        assert main(["prune", "--older-than", "14d"]) == 0
        assert files_below(local) == ["0.answered", "0.sent", f"{'a' * 64}.png"]

    def test_a_journal_of_another_version_is_one_line_and_removes_nothing(self, local, capsys):
        put_request(local, days=20)
        put(local, journal_key("c" * 64, 0, "answered"), 1, b'{"schema":99}')
        assert main(["prune", "--older-than", "14d"]) == 1
        assert "schema 1" in capsys.readouterr().err
        assert len(files_below(local)) == 4


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api", "local")
class TestBlocks:
    def test_a_folder_that_is_the_default_is_pruned_with_the_spool_here(self, local, tmp_path, capsys):
        shared = tmp_path / "shared"
        LocalFileSystem(basepath=str(shared)).save("prune-shared", overwrite=True)
        put_request(shared, days=20)
        put(local, "n1n/spool/c-0.reply", 20)
        with temporary_settings({PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK: "local-file-system/prune-shared"}):
            assert main(["prune", "--older-than", "14d"]) == 0
        said = capsys.readouterr().out
        assert str(shared / "n1n") in said
        assert str(local / "n1n") in said
        assert files_below(tmp_path) == []

    def test_a_named_folder_alone(self, local, tmp_path):
        shared = tmp_path / "shared"
        LocalFileSystem(basepath=str(shared)).save("prune-named", overwrite=True)
        put_request(shared, days=20)
        put_request(local, days=20)
        assert main(["prune", "--older-than", "14d", "--storage", "local-file-system/prune-named"]) == 0
        assert files_below(shared) == []
        assert len(files_below(local)) == 3

    def test_a_bucket_that_a_run_has_written(self, bucket, moto_client, n1n_gateway_factory, capsys):
        from prefect import flow

        gateway = n1n_gateway_factory(canned=True)
        credentials = N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url)

        @flow(result_storage=bucket, persist_result=True)
        def draw():
            return generate_image("a fox", credentials=credentials)

        image = draw()
        key = f"flows/{image.storage_key}"
        command = ["prune", "--storage", "s3-bucket/prune-bucket", "--older-than"]
        assert main([*command, "1h"]) == 0
        assert "0.0 MB removed" in capsys.readouterr().out
        assert moto_client.head_object(Bucket=bucket.bucket_name, Key=key)["ContentLength"] == image.size_bytes
        in_a_minute = argparse.Namespace(older_than=-60, storage=("s3-bucket", "prune-bucket"), dry_run=False)
        assert prune.run(in_a_minute) == 0
        left = moto_client.list_objects_v2(Bucket=bucket.bucket_name)["Contents"]
        assert key not in {found["Key"] for found in left}
        assert {found["Key"].split("/")[1] for found in left} >= {"n1n", f"n1n-{image.request_key}"}
        assert [found["Key"] for found in left if "/n1n/" in found["Key"]] == ["flows/n1n/probe"]

    def test_a_default_in_a_bucket_is_left_for_its_own_call(self, bucket, local, capsys):
        put_request(local, days=20)
        with temporary_settings({PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK: "s3-bucket/prune-bucket"}):
            assert main(["prune", "--older-than", "14d"]) == 0
        assert "add --storage s3-bucket/prune-bucket" in capsys.readouterr().out
        assert files_below(local) == []

    @pytest.fixture
    def bucket(self, moto_server, moto_client):
        from prefect_aws import AwsClientParameters, AwsCredentials, S3Bucket

        keys = AwsCredentials(
            aws_access_key_id=moto_server.access_key,
            aws_secret_access_key=moto_server.secret_key,
            region_name="us-east-1",
            aws_client_parameters=AwsClientParameters(endpoint_url=moto_server.endpoint_url),
        )
        block = S3Bucket(bucket_name=new_bucket(moto_client), bucket_folder="flows", credentials=keys)
        block.save("prune-bucket", overwrite=True)
        return block

    def test_a_storage_that_cannot_be_listed_is_told_how(self, capsys):
        from prefect.filesystems import RemoteFileSystem

        RemoteFileSystem(basepath="memory://results").save("prune-remote", overwrite=True)
        assert main(["prune", "--older-than", "14d", "--storage", "remote-file-system/prune-remote"]) == 1
        said = capsys.readouterr().err
        assert "lifecycle rule" in said
        assert "n1n/journal/, and a day later below n1n/originals/" in said

    def test_a_block_that_is_no_storage(self, capsys):
        N1nCredentials(api_key="sk-0123456789").save("prune-key", overwrite=True)
        assert main(["prune", "--older-than", "14d", "--storage", "n1n-credentials/prune-key"]) == 1
        assert "is no result storage" in capsys.readouterr().err

    @pytest.mark.parametrize("block", ["local-file-system/absent", "nonsense/absent"])
    def test_a_block_that_is_not_there(self, block, capsys):
        assert main(["prune", "--older-than", "14d", "--storage", block]) == 1
        said = capsys.readouterr().err
        assert f"The block '{block}' could not be loaded" in said
        assert said.count("\n") == 1

    @pytest.mark.parametrize("block", ["absent", "/absent", "s3-bucket/", "s3-bucket/a/b"])
    def test_a_block_without_a_type_is_two(self, block, capsys):
        assert main(["prune", "--older-than", "14d", "--storage", block]) == 2
        assert "give TYPE/NAME" in capsys.readouterr().err
