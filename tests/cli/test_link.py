import httpx
import pytest

from n1n_prefect.blocks import S3Location
from n1n_prefect.cli import main
from n1n_prefect.errors import InvalidRequestError, SourceError
from tests.examples import uploaded

KEYS = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}


class TestPresignedUrl:
    @pytest.mark.parametrize("name", ["by key", "by address", "by upload"])
    def test_fetches_the_object(self, s3_location, moto_client, name):
        moto_client.put_object(Bucket=s3_location.bucket, Key="week 46/äpple.png", Body=b"pixels")
        of = {
            "by key": "week 46/äpple.png",
            "by address": f"s3://{s3_location.bucket}/week 46/äpple.png",
            "by upload": uploaded(bucket=s3_location.bucket, key="week 46/äpple.png"),
        }[name]
        assert httpx.get(s3_location.presigned_url(of)).content == b"pixels"

    @pytest.mark.parametrize("seconds", [0, -1, 604_801])
    def test_times_that_s3_does_not_know(self, s3_location, seconds):
        with pytest.raises(InvalidRequestError, match="7 days"):
            s3_location.presigned_url("a", expires_seconds=seconds)

    @pytest.mark.parametrize("of", ["", "https://evil.example/a", "s3://", "s3://shop", "s3://user:pw@shop/a"])
    def test_what_is_no_object(self, s3_location, of):
        with pytest.raises(InvalidRequestError, match="s3://bucket/key") as caught:
            s3_location.presigned_url(of)
        assert "pw" not in str(caught.value)

    def test_without_credentials(self, monkeypatch, tmp_path):
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        with pytest.raises(SourceError, match="no usable credentials"):
            S3Location(bucket="shop", region_name="eu-west-3").presigned_url("a")


class TestRegion:
    def test_is_said_of_what_lies_on_aws_alone(self, s3_location, monkeypatch):
        assert S3Location(bucket="shop", region_name="eu-central-1", **KEYS)._aws_region() == "eu-central-1"
        assert s3_location._aws_region() == ""
        monkeypatch.setenv("AWS_ENDPOINT_URL", "https://store.example")
        assert S3Location(bucket="shop", region_name="eu-central-2", **KEYS)._aws_region() == ""


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestTheCommand:
    def test_prints_an_address_and_nothing_else(self, s3_location, moto_client, capsys):
        moto_client.put_object(Bucket=s3_location.bucket, Key="a.png", Body=b"pixels")
        s3_location.save("linked", overwrite=True)
        assert main(["link", f"s3://{s3_location.bucket}/a.png", "--location", "linked", "--expires", "2m"]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert "X-Amz-Expires=120" in line
        assert httpx.get(line).content == b"pixels"

    @pytest.mark.parametrize("key", ["gone.png", "../a.png"])
    def test_an_object_that_is_not_there(self, s3_location, capsys, key):
        s3_location.save("linked", overwrite=True)
        assert main(["link", key, "--location", "linked"]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert "there is no such object" in said.err

    def test_a_block_that_is_not_there(self, capsys):
        assert main(["link", "s3://shop/a.png", "--location", "nobody-s"]) == 1
        assert "'nobody-s' could not be loaded" in capsys.readouterr().err

    @pytest.mark.parametrize("time", ["0s", "8d", "15", "m", "-1m", "1.5h", "٣m"])
    def test_times_that_are_none(self, capsys, time):
        assert main(["link", "s3://shop/a.png", "--location", "l", f"--expires={time}"]) == 2
        assert "is no time of 1s to 7d" in capsys.readouterr().err
