import os
from pathlib import Path

import pytest

from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import Spending
from n1n_prefect.settings import N1nSettings, settings
from n1n_prefect.sources import SourceRules

PREFIX = "PREFECT_INTEGRATIONS_N1N_"


class TestDefaults:
    def test_spending_is_the_value_s_own(self):
        assert N1nSettings().spending == Spending()

    def test_sources_are_read_below_the_working_directory(self):
        assert N1nSettings().source_rules == SourceRules()

    def test_every_setting_says_what_it_is_for(self):
        assert [name for name, field in N1nSettings.model_fields.items() if not field.description] == []


class TestEnvironment:
    def test_each_rule_of_spending(self, monkeypatch):
        values = {
            "ON_UNKNOWN_OUTCOME": "fail",
            "UNKNOWN_RETRIES": "3",
            "NO_IMAGE_RETRIES": "0",
            "MAX_WAIT_SECONDS": "12.5",
            "MAX_USD_PER_RUN": "7.25",
        }
        for name, value in values.items():
            monkeypatch.setenv(PREFIX + name, value)
        assert settings().spending == Spending("fail", 3, 0, 12.5, 7.25)

    def test_roots_are_separated_as_in_path(self, monkeypatch, tmp_path):
        monkeypatch.setenv(PREFIX + "INPUT_ROOTS", os.pathsep.join([str(tmp_path), "/data/in put"]) + os.pathsep)
        assert settings().source_rules.roots == (tmp_path, Path("/data/in put"))

    def test_no_roots_are_the_working_directory_and_not_everything(self, monkeypatch):
        monkeypatch.setenv(PREFIX + "INPUT_ROOTS", "")
        assert settings().source_rules == SourceRules()

    def test_a_change_is_seen_at_once(self, monkeypatch):
        monkeypatch.setenv(PREFIX + "UNKNOWN_RETRIES", "2")
        assert settings().unknown_retries == 2
        monkeypatch.setenv(PREFIX + "UNKNOWN_RETRIES", "5")
        assert settings().unknown_retries == 5
        monkeypatch.delenv(PREFIX + "UNKNOWN_RETRIES")
        assert settings().unknown_retries == 1

    def test_it_is_not_read_again_for_nothing(self):
        assert settings() is settings()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("ON_UNKNOWN_OUTCOME", "sometimes"),
            ("UNKNOWN_RETRIES", "-1"),
            ("MAX_USD_PER_RUN", "-0.01"),
            ("MAX_USD_PER_RUN", "ten"),
            ("MAX_WAIT_SECONDS", "-1"),
        ],
    )
    def test_nonsense_is_refused_and_not_ignored(self, monkeypatch, name, value):
        monkeypatch.setenv(PREFIX + name, value)
        with pytest.raises(InvalidRequestError, match=name):
            settings()


class TestFiles:
    def test_prefect_toml(self, monkeypatch, tmp_path):
        (tmp_path / "prefect.toml").write_text(
            '[integrations.n1n]\nunknown_retries = 4\ninput_roots = ["/data", "/more"]\n', "utf-8"
        )
        monkeypatch.chdir(tmp_path)
        found = N1nSettings()
        assert found.unknown_retries == 4
        assert found.input_roots == [Path("/data"), Path("/more")]
