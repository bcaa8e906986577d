"""`n1n-prefect batch`: the same flow with saved blocks, and on local servers."""

import json
import uuid
from pathlib import Path

import pytest

from n1n_prefect.cli import local_batch, main
from n1n_prefect.cli.batch import _options

ROWS = "id,prompt,shelf\nkettle,A copper kettle,kitchen\nlamp,A reading lamp,lighting\n"


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of two rows in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"week-{uuid.uuid4().hex[:8]}.csv"
    path.write_text(ROWS, "utf-8")
    return path


class TestArguments:
    @pytest.mark.parametrize(
        ("argument", "said"),
        [
            (["--spec", "min_edge=1000"], "is no object of JSON"),
            (["--spec", "[1]"], "is no object of JSON"),
            (["--only-status", "broken"], "invalid choice: 'broken'"),
            (["--aspect-ratio", "3:1"], "invalid choice: '3:1'"),
            (["--max-usd", "much"], "invalid float value"),
        ],
    )
    def test_what_cannot_be_is_two(self, argument, said, capsys):
        assert main(["batch", "week.csv", *argument]) == 2
        assert said in capsys.readouterr().err

    def test_each_option_is_a_parameter_of_the_flow(self):
        import argparse
        import inspect

        from n1n_prefect.batch import batch_to_s3
        from n1n_prefect.cli import batch

        parser = argparse.ArgumentParser()
        batch.add_arguments(parser)
        parameters = inspect.signature(batch_to_s3.fn).parameters
        defaults = _options(parser.parse_args(["week.csv"]))
        assert defaults == {name: parameters[name].default for name in defaults}
        missing = parameters.keys() - defaults.keys() - {"manifest", "credentials", "destination", "source"}
        # `--regenerate` gives two of them.
        assert missing == {"on_invalid", "regenerations", "grace_seconds"}

    def test_regenerate_says_how_often(self):
        import argparse

        from n1n_prefect.cli import batch

        parser = argparse.ArgumentParser()
        batch.add_arguments(parser)
        given = _options(parser.parse_args(["week.csv", "--regenerate", "2"]))
        assert (given["on_invalid"], given["regenerations"]) == ("regenerate", 2)


@pytest.mark.prefect
class TestSavedBlocks:
    def test_bad_rows_are_told_on_lines_of_their_own(
        self, prefect_api, manifest, n1n_credentials, s3_location, n1n_gateway, capsys
    ):
        n1n_credentials.save("cli-batch", overwrite=True)
        s3_location.save("cli-batch", overwrite=True)
        manifest.write_text("id,prompt\na,A fox\na,An owl\nb,\n", "utf-8")
        blocks = ["--credentials", "cli-batch", "--destination", "cli-batch"]
        assert main(["batch", manifest.name, *blocks]) == 1
        said = capsys.readouterr().err.splitlines()
        assert any(line.startswith("n1n-prefect batch: ") and "2 bad rows of 3" in line for line in said)
        assert "line 3 (id 'a'): id='a' is also that of line 2; give every row its own." in said
        assert n1n_gateway.ledger.calls == []

    def test_a_block_that_is_not_saved_is_named_with_the_remedy(self, prefect_api, manifest, n1n_credentials, capsys):
        n1n_credentials.save("cli-batch", overwrite=True)
        assert main(["batch", manifest.name, "--credentials", "cli-batch", "--destination", "nowhere"]) == 1
        said = capsys.readouterr().err
        assert "The S3 Image Location block 'nowhere' could not be loaded" in said
        assert "n1n-prefect setup --location NAME" in said


class TestLocal:
    @pytest.mark.prefect
    def test_what_the_bucket_would_have_is_copied(self, prefect_api, manifest, tmp_path, capsys):
        output = tmp_path / "try-out"
        output.mkdir()
        asked = json.dumps([str(output), manifest.name, {"variants": ["thumb=crop 96x96 webp"]}])
        assert local_batch.main(asked) == 0
        said = capsys.readouterr().out
        assert f"Batch {manifest.stem}: 2 uploaded; $0.08 in all" in said
        assert f"Copies of the 8 objects in the bucket are below {output}." in said
        copied = {path.name for path in (output / manifest.stem).iterdir()}
        images = {"kettle.png", "kettle.thumb.webp", "lamp.png", "lamp.thumb.webp"}
        assert copied == {*images, "results.jsonl", "results.parquet", "_stats.json", "bad_rows.jsonl"}

    def test_a_manifest_elsewhere_is_refused(self, tmp_path, capsys):
        assert main(["batch", "s3://bucket/week.csv", "--local", str(tmp_path)]) == 1
        assert "is not on this machine, and --local reads nothing else" in capsys.readouterr().err
