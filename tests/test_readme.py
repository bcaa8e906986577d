"""What the README shows, works."""

import re
import shlex
from pathlib import Path

import pytest

from tests.examples import png

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md")}


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


class TestReadme:
    def test_a_newcomer_reads_it_in_a_few_minutes(self):
        assert len(README.splitlines()) <= 250

    @pytest.mark.prefect
    def test_its_python_runs_from_top_to_bottom(
        self, prefect_api, n1n_gateway, n1n_credentials, s3_location, tmp_path, monkeypatch, capsys
    ):
        from PIL import Image
        from prefect import flow, unmapped

        monkeypatch.chdir(tmp_path)
        Image.effect_noise((64, 64), 80).save("logo.png")
        first, many, edit, estimate, *_ = blocks("python")
        weekly, *_ = blocks("python", DOCS["keeping.md"])
        first = first.replace(
            'N1nCredentials(api_key="sk-…")',
            f"N1nCredentials(api_key={n1n_gateway.api_key!r}, base_url={n1n_gateway.base_url!r})",
        ).replace('S3Location(bucket="my-bucket", prefix="foxes")', "S3")
        import n1n_prefect

        names = {"S3": s3_location, "unmapped": unmapped, "prompts": ["a", "b"], **vars(n1n_prefect)}
        names |= {"credentials": n1n_credentials, "destination": s3_location}
        exec(compile(first, "README", "exec"), names)

        @flow
        def rest():
            exec(compile(many, "README", "exec"), names)
            names["image"] = names["outcomes"][0].image
            exec(compile(edit, "README", "exec"), names)

        rest()
        for block in (weekly, estimate):
            exec(compile(block, "README", "exec"), names)
        assert names["weekly"].cache_policy.scope == "week-46"
        assert "$0.27, and at most $0.81" in capsys.readouterr().out
        assert [outcome.status for outcome in names["outcomes"]] == ["uploaded", "uploaded"]
        assert names["again"].request_key != names["snowy"].request_key

    @pytest.mark.prefect
    def test_its_table_is_carried_out_as_it_says(
        self, prefect_api, n1n_gateway, n1n_credentials, s3_location, tmp_path, monkeypatch, capsys
    ):
        from n1n_prefect.cli import main

        monkeypatch.chdir(tmp_path)
        (tmp_path / "photos").mkdir()
        Path("photos/cup.png").write_bytes(png(64, 64))
        (table,) = blocks("csv")
        Path("week-46.csv").write_text(table, "utf-8")
        n1n_credentials.save("readme", overwrite=True)
        s3_location.model_copy(update={"key_template": "{prefix}/{name}.{extension}"}).save("readme", overwrite=True)
        n1n_gateway.faults.add("IMAGE_PROHIBITED_CONTENT", match="film star")
        said = [self.last_words_of(line, main, capsys) for line in self.commands()]
        promised = next(block for block in blocks("text") if block.startswith("Batch week-46")).splitlines()
        assert said[0] == promised[:1]
        assert said[1][0] == promised[1]
        assert said[2][0] == "Batch week-46: 4 uploaded; $0.25 in all"
        client = s3_location.get_client()
        listed = client.list_objects_v2(Bucket=s3_location.bucket, Prefix=f"{s3_location.prefix}/week-46/")["Contents"]
        names = {entry["Key"].rpartition("/")[2] for entry in listed}
        assert {"lamp.jpg", "lamp.thumb.webp", *(line.rpartition("/")[2] for line in promised[2:])} <= names

    def commands(self):
        """The arguments of the README's batches but for the local one, with the test's blocks."""
        (shown,) = [block for block in blocks("shell") if "n1n-prefect batch" in block]
        lines = [shlex.split(line, comments=True)[1:] for line in shown.splitlines() if "--local" not in line]
        return [[*line, "--credentials", "readme", "--destination", "readme"] for line in lines]

    def last_words_of(self, arguments, main, capsys):
        assert main(arguments) == 0
        return capsys.readouterr().out.splitlines()

    @pytest.mark.parametrize("page", ["README.md", *DOCS])
    def test_every_file_and_folder_it_names_is_there(self, page):
        text, folder = (README, ROOT) if page == "README.md" else (DOCS[page], ROOT / "docs")
        for path in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text):
            assert (folder / path).exists(), path
        for path in re.findall(r"python ([\w/]+\.py)", text):
            assert (ROOT / path).exists(), path

    def test_it_leads_to_every_page(self):
        assert [name for name in DOCS if f"(docs/{name})" not in README] == []


class TestDocs:
    def test_the_map_names_every_module(self):
        missing = [
            path.stem
            for path in [*(ROOT / "n1n_prefect").glob("*.py"), *(ROOT / "n1n_prefect/batch").glob("*.py")]
            if not path.stem.startswith("__") and path.stem not in DOCS["map.md"]
        ]
        assert missing == []

    def test_the_settings_are_all_there(self):
        from n1n_prefect import N1nSettings

        for name in N1nSettings.model_fields:
            assert f"`{name.upper()}`" in DOCS["settings.md"]

    def test_so_are_the_variables_that_commands_and_scripts_read(self):
        sources = [
            *(ROOT / "n1n_prefect").rglob("*.py"),
            *(ROOT / "blocks").glob("*.py"),
            ROOT / "prefect.kubernetes.yaml",
        ]
        read = {name for path in sources for name in re.findall(r"\bN1N_[A-Z][A-Z0-9_]+\b", path.read_text("utf-8"))}
        known = set(re.findall(r"^\| `(N1N_\w+)`", DOCS["settings.md"], re.MULTILINE))
        assert known == read

    def test_the_columns_of_results_are_as_they_are(self):
        from n1n_prefect.batch.results import COLUMNS

        rows = "".join(f"| `{name}` | {column.kind} | {column.meaning} |\n" for name, column in COLUMNS.items())
        assert f"| Column | Kind | |\n|---|---|---|\n{rows}\n" in DOCS["batch.md"]

    def test_so_are_those_of_a_manifest(self):
        from n1n_prefect.batch.columns import KNOWN_COLUMNS

        table = DOCS["batch.md"].partition("| Column | |\n|---|---|\n")[2].partition("\n\n")[0]
        firsts = [line.split(" | ")[0] for line in table.splitlines()]
        named = {name for first in firsts for name in re.findall(r"`(\w+)`", first)}
        assert named == set(KNOWN_COLUMNS)

    def test_so_are_the_statuses(self):
        from n1n_prefect.images import OUTCOME_STATUSES

        table = DOCS["batch.md"].partition("| Status | |")[2].partition("\n\n")[0]
        named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split(" | ")[0])}
        assert named == set(OUTCOME_STATUSES)

    def test_so_are_the_formats(self):
        from n1n_prefect.batch import manifest

        table = (manifest.__doc__ or "").partition("| Name ends in")[2].partition("\n\n")[0]
        assert table in DOCS["batch.md"]
