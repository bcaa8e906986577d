"""What the README shows, works."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


class TestReadme:
    @pytest.mark.prefect
    def test_its_python_runs_from_top_to_bottom(
        self, prefect_api, n1n_gateway, n1n_credentials, s3_location, tmp_path, monkeypatch, capsys
    ):
        from PIL import Image
        from prefect import flow, unmapped

        monkeypatch.chdir(tmp_path)
        Image.effect_noise((64, 64), 80).save("logo.png")
        first, many, edit, weekly, estimate, *_ = blocks("python")
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

    def test_every_file_and_folder_it_names_is_there(self):
        for path in re.findall(r"\]\(([\w./-]+)\)|python ([\w/]+\.py)", README):
            assert (ROOT / (path[0] or path[1])).exists(), path

    def test_the_map_names_every_module(self):
        missing = [
            path.stem
            for path in (ROOT / "n1n_prefect").glob("*.py")
            if not path.stem.startswith("__") and path.stem not in README
        ]
        assert missing == []

    def test_it_names_every_setting_by_its_default(self):
        from n1n_prefect import N1nSettings

        for name in N1nSettings.model_fields:
            assert f"`{name.upper()}`" in README
