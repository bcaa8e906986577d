"""The example flows, run and prepared for deployment as they are."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from n1n_prefect.errors import N1nError

ROOT = Path(__file__).parents[1]
FLOWS = sorted(path for path in (ROOT / "flows").glob("*.py") if path.stem != "serve")


def flow_in(path):
    return load_flow_from_entrypoint(f"{path}:{path.stem}")


@pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.stem)
class TestEveryFlow:
    def test_it_is_understood_in_a_minute(self, path):
        assert len(path.read_text().splitlines()) <= 80

    def test_its_parameters_make_a_good_form(self, path):
        fields = parameter_schema(flow_in(path)).model_dump()["properties"]
        assert set(fields) >= {"credentials", "model", "aspect_ratio"}
        assert set(fields) & {"destination", "published"}
        assert all(field.get("description") for field in fields.values())
        assert "enum" in fields["model"]
        # A field that may be None becomes a tab for each type in the UI; nobody need touch the two of a batch.
        tabs = {name for name, field in fields.items() if {"type": "null"} in field.get("anyOf", [])}
        assert tabs == ({"source", "max_usd", "spec"} if path.stem == "batch_to_s3" else set())

    def test_its_help_says_how(self, path):
        said = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=True).stdout
        assert "--credentials" in said
        assert "name of an n1n Credentials block" in said


@pytest.mark.prefect
class TestRuns:
    def test_edit_to_s3_keeps_the_signature_of_an_address_to_itself(self):
        import runpy

        name_of = runpy.run_path(str(ROOT / "flows/edit_to_s3.py"))["name_of"]
        assert name_of("https://host/a/cup.png?X-Amz-Signature=abc/def#g") == "cup.png"
        assert name_of("s3://bucket/a/cup #1?.png") == "cup #1?.png"
        assert name_of("in/cup.png") == "cup.png"

    def test_generate_to_s3_hides_nothing_behind_one_refusal(
        self, prefect_api, n1n_gateway, n1n_credentials, s3_location
    ):
        n1n_gateway.faults.add("IMAGE_PROHIBITED_CONTENT", match="forbidden")
        prompts = ["a red fox", "a forbidden fox", "a blue fox"]
        outcomes = flow_in(ROOT / "flows/generate_to_s3.py")(prompts, n1n_credentials, s3_location, aspect_ratio="16:9")
        assert [outcome.status for outcome in outcomes] == ["uploaded", "refused", "uploaded"]
        assert outcomes[1].prompt_excerpt == "a forbidden fox"
        assert (outcomes[0].image.width, outcomes[0].image.height) == (1344, 768)

    def test_edit_to_s3_edits_what_is_in_a_private_bucket(self, prefect_api, n1n_gateway, n1n_credentials, s3_location):
        generate, edit = (flow_in(ROOT / f"flows/{name}.py") for name in ("generate_to_s3", "edit_to_s3"))
        first = generate(["a red fox"], n1n_credentials, s3_location)[0].uploaded
        outcomes = asyncio.run(
            edit([first.uri, "s3://nowhere/fox.png"], "make it winter", n1n_credentials, s3_location)
        )
        assert [outcome.status for outcome in outcomes] == ["uploaded", "source_error"]
        assert outcomes[0].uploaded.sha256 != first.sha256
        assert n1n_gateway.ledger.duplicates() == []

    def test_no_image_at_all_fails_the_run_with_the_reason(
        self, prefect_api, n1n_gateway, n1n_credentials, s3_location
    ):
        n1n_gateway.faults.add("unauthorized", times=None)
        with pytest.raises(N1nError, match="The API key was not accepted"):
            flow_in(ROOT / "flows/generate_to_s3.py")(["a red fox"], n1n_credentials, s3_location)

    def test_batch_to_s3_draws_the_picture_dictionary(
        self, prefect_api, n1n_gateway, n1n_credentials, s3_location, monkeypatch, tmp_path
    ):
        rows = (ROOT / "docs/picture-dictionary.csv").read_text("utf-8").splitlines(keepends=True)
        (tmp_path / "words.csv").write_text("".join(rows[:12]), "utf-8")
        (tmp_path / "docs").mkdir()
        (tmp_path / "docs/logo.png").write_bytes((ROOT / "docs/logo.png").read_bytes())
        monkeypatch.chdir(tmp_path)
        report = flow_in(ROOT / "flows/batch_to_s3.py")("words.csv", n1n_credentials, s3_location)
        assert report.by_status == {"uploaded": 11}
        assert len({call.model for call in n1n_gateway.ledger.calls}) > 2

    def test_block_scripts_save_blocks_that_load_and_may_run_twice(self, prefect_api, monkeypatch, capsys):
        import runpy

        from n1n_prefect import N1nCredentials, S3Location

        monkeypatch.setenv("N1N_API_KEY", "sk-from-the-environment")
        monkeypatch.setenv("N1N_S3_BUCKET", "a-bucket")
        for script in sorted((ROOT / "blocks").glob("*.py")) * 2:
            runpy.run_path(str(script), run_name="__main__")
        assert N1nCredentials.load("default").api_key.get_secret_value() == "sk-from-the-environment"
        assert S3Location.load("default").bucket == "a-bucket"
        assert "sk-from-the-environment" not in capsys.readouterr().out

    def test_the_script_of_the_concurrency_limit_makes_one_that_calls_can_use(
        self, prefect_api, n1n_gateway, n1n_credentials, monkeypatch
    ):
        import runpy

        from prefect import flow
        from prefect.client.orchestration import get_client

        from n1n_prefect import generate_image

        monkeypatch.setenv("N1N_CONCURRENCY_LIMIT", "one key")
        for slots in ("8", "2", "2"):
            monkeypatch.setenv("N1N_CONCURRENCY_SLOTS", slots)
            runpy.run_path(str(ROOT / "blocks/global_concurrency_limit.py"), run_name="__main__")
        with get_client(sync_client=True) as client:
            limit = client.read_global_concurrency_limit_by_name("one key")
        assert (limit.limit, limit.active) == (2, True)
        shared = n1n_credentials.model_copy(update={"concurrency_limit": "one key"})
        assert flow(generate_image.fn)("a red fox", credentials=shared).sha256


class TestSavingBlocksAgain:
    """A script in `blocks/` changes what the environment says, and nothing else."""

    def saved_again(self, script, monkeypatch, **environment):
        import runpy

        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        runpy.run_path(str(ROOT / "blocks" / script), run_name="__main__")

    def test_credentials_keep_their_account_and_prices(self, prefect_api, monkeypatch):
        from n1n_prefect import N1nCredentials

        N1nCredentials(api_key="sk-old", account="team", price_factor=0.5, max_in_flight=3).save("again")
        self.saved_again("n1n_credentials.py", monkeypatch, N1N_CREDENTIALS_BLOCK="again", N1N_API_KEY="sk-new")
        block = N1nCredentials.load("again")
        assert block.api_key.get_secret_value() == "sk-new"
        assert (block.account, block.price_factor, block.max_in_flight) == ("team", 0.5, 3)

    def test_a_location_keeps_its_keys(self, prefect_api, monkeypatch):
        from n1n_prefect import S3Location

        S3Location(bucket="old", aws_access_key_id="AKIA", aws_secret_access_key="hush", prefix="p").save("again")
        self.saved_again("s3_image_location.py", monkeypatch, N1N_S3_BLOCK="again", N1N_S3_BUCKET="new")
        block = S3Location.load("again")
        assert (block.bucket, block.prefix, block.aws_access_key_id) == ("new", "p", "AKIA")
        assert block.aws_secret_access_key.get_secret_value() == "hush"
