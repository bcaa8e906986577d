import os
import traceback
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
            "MAX_USD_PER_DAY": "50",
        }
        for name, value in values.items():
            monkeypatch.setenv(PREFIX + name, value)
        assert settings().spending == Spending("fail", 3, 0, 12.5, 7.25, 50)

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
            ("MAX_USD_PER_RUN", "inf"),
            ("MAX_USD_PER_DAY", "-1"),
            ("MAX_USD_PER_DAY", "inf"),
            ("MAX_WAIT_SECONDS", "-1"),
        ],
    )
    def test_nonsense_is_refused_and_not_ignored(self, monkeypatch, name, value):
        monkeypatch.setenv(PREFIX + name, value)
        with pytest.raises(InvalidRequestError, match=name):
            settings()


class TestBudgetStore:
    URL = "redis://someone:hush@10.0.0.1:6379/0"

    @pytest.mark.parametrize("store", [URL, URL.replace("redis:", "rediss:"), "redis-database/budgets", f" {URL}\n"])
    def test_a_url_or_the_name_of_a_block(self, monkeypatch, store):
        monkeypatch.setenv(PREFIX + "BUDGET_STORE", store)
        assert settings().budget_store.get_secret_value() == store.strip()
        assert "hush" not in f"{settings()!r} {settings()} {settings().model_dump_json()}"

    @pytest.mark.parametrize("nothing", ["", " "])
    def test_nothing_is_no_store(self, monkeypatch, nothing):
        monkeypatch.setenv(PREFIX + "BUDGET_STORE", nothing)
        assert settings().budget_store is None

    @pytest.mark.parametrize("store", ["hush", "http://:hush@host", "redis-database/", "redis:hush", "unix:///hush"])
    def test_what_is_neither_is_refused_and_not_repeated(self, monkeypatch, store):
        monkeypatch.setenv(PREFIX + "BUDGET_STORE", store)
        with pytest.raises(InvalidRequestError, match=r"N1N_BUDGET_STORE=….*redis-database/NAME") as caught:
            settings()
        shown = "".join(traceback.format_exception(caught.value))
        assert "hush" not in shown
        assert caught.value.__context__ is None


class TestFiles:
    def test_prefect_toml(self, monkeypatch, tmp_path):
        (tmp_path / "prefect.toml").write_text(
            '[integrations.n1n]\nunknown_retries = 4\ninput_roots = ["/data", "/more"]\n', "utf-8"
        )
        monkeypatch.chdir(tmp_path)
        found = N1nSettings()
        assert found.unknown_retries == 4
        assert found.input_roots == [Path("/data"), Path("/more")]


def test_a_misspelt_ceiling_is_not_ignored(monkeypatch):
    monkeypatch.setenv("PREFECT_INTEGRATIONS_N1N_MAX_USD_PER_RUNS", "0.01")
    with pytest.raises(InvalidRequestError, match=r"did you mean PREFECT_INTEGRATIONS_N1N_MAX_USD_PER_RUN\?"):
        settings()
