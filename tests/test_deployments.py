"""What `prefect deploy` asks of us, and the files that deployments are made from; `tests/e2e` runs them."""

import shlex
import subprocess
import sys
from email.parser import BytesParser
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

from n1n_prefect import InvalidRequestError
from n1n_prefect.deployments import saved_blocks, working_folder

ROOT = Path(__file__).parents[1]
FLOWS = sorted(path.name for path in (ROOT / "flows").glob("*.py") if path.name != "serve.py")


class TestWorkingFolder:
    def test_is_where_the_command_is_run(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert working_folder() == {"path": str(tmp_path)}


@pytest.mark.prefect
class TestSavedBlocks:
    def test_are_references_without_a_secret(self, prefect_api, n1n_credentials, s3_location):
        ids = {
            "credentials": n1n_credentials.save("deployed", overwrite=True),
            "destination": s3_location.save("deployed", overwrite=True),
        }
        found = saved_blocks(credentials="n1n-credentials/deployed", destination="s3-image-location/deployed")
        assert found == {name: {"$ref": {"block_document_id": str(of)}} for name, of in ids.items()}

    def test_one_that_is_misspelt_is_named_with_its_neighbour(self, prefect_api, n1n_credentials):
        n1n_credentials.save("production", overwrite=True)
        with pytest.raises(InvalidRequestError) as refused:
            saved_blocks(credentials="n1n-credentials/prodution")
        said = str(refused.value)
        assert "There is no block n1n-credentials/prodution at http" in said
        assert "did you mean 'production'?" in said
        assert "n1n-prefect setup --credentials" in said

    @pytest.mark.parametrize("block", ["slack-webhook/nobody-s", "no-such-type/any", "without-a-name"])
    def test_one_of_a_type_that_nobody_has_saved(self, block, prefect_api):
        with pytest.raises(InvalidRequestError, match=r"None of this type is saved yet. Save it in the UI"):
            saved_blocks(budget=block)


BATCH, CHUNK = "n1n_prefect.batch.batch_to_s3", "n1n_prefect.batch.batch_chunk"


class TestFiles:
    @pytest.mark.parametrize("name", ["prefect.yaml", "prefect.kubernetes.yaml"])
    def test_deploy_every_flow_and_hold_no_secret(self, name):
        text = (ROOT / name).read_text("utf-8")
        deployments = yaml.safe_load(text)["deployments"]
        files = {Path(entry["entrypoint"].partition(":")[0]).name for entry in deployments}
        # The package's own flows are deployed from it, so that an installed package is enough.
        assert files == {*FLOWS} - {"batch_to_s3.py"} | {BATCH, CHUNK}
        assert all(entry["description"] and entry["tags"] for entry in deployments)
        active = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        assert "prefect.blocks." not in "\n".join(active)  # its contents would be written into the database in clear
        assert "block_document_id" not in "\n".join(active)

    def test_the_served_ones_are_the_same_flows(self):
        text = (ROOT / "flows" / "serve.py").read_text("utf-8")
        assert [name for name in FLOWS if f"{Path(name).stem}.to_deployment(" not in text] == []


# ── the image ────────────────────────────────────────────────────────────────


def instructions():
    """The Dockerfile's instructions and their words, continuation lines joined."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [tuple(shlex.split(line)) for line in lines if line and not line.startswith("#")]


def copied():
    """Pairs of source and destination that are copied from the checkout."""
    copies = [words[1:] for words in instructions() if words[0] == "COPY" and not words[1].startswith("--from")]
    return [(source, words[-1]) for words in copies for source in words[:-1]]


class TestDockerfile:
    def test_runs_as_somebody_without_privileges(self):
        [user] = [words[1] for words in instructions() if words[0] == "USER"]
        assert int(user) >= 1000

    def test_holds_no_secret(self):
        text = (ROOT / "Dockerfile").read_text("utf-8")
        assert [
            word for word in ("KEY", "SECRET", "TOKEN", "PASSWORD") if word in text.upper().replace("NO SECRET", "")
        ] == []

    def test_what_it_copies_is_there_and_let_in(self):
        rules = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        assert "*" in rules
        for source, _ in copied():
            assert (ROOT / source).exists()
            assert f"!{source}" in rules

    def test_the_flows_are_where_the_deployments_look(self):
        assert ("flows", "/opt/n1n/flows") in copied()
        [step] = yaml.safe_load((ROOT / "prefect.kubernetes.yaml").read_text("utf-8"))["pull"]
        assert step["prefect.deployments.steps.set_working_directory"]["directory"] == "/opt/n1n"

    def test_its_install_has_what_it_needs(self, tmp_path):
        for source, destination in copied():
            if destination.startswith("/"):
                continue
            link = tmp_path / destination / Path(source).name if destination == "./" else tmp_path / destination
            link.symlink_to(ROOT / source)
        [install] = [words for words in instructions() if "pip" in words]
        wanted = {extra for word in install if word.startswith(".[") for extra in word[2:-1].split(",")}
        wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--disable-pip-version-check", "-w", "wheels", "."]
        done = subprocess.run(wheel, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

        with ZipFile(next((tmp_path / "wheels").glob("*.whl"))) as built:
            names = built.namelist()
            [metadata] = [name for name in names if name.endswith("METADATA")]
            extras = BytesParser().parsebytes(built.read(metadata)).get_all("Provides-Extra")
        assert wanted == {"aws", "parquet", "redis"}
        assert wanted <= set(extras)
        assert {f"n1n_prefect/flows/{name}" for name in FLOWS} <= set(names)
