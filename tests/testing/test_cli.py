import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from n1n_prefect.__about__ import __version__
from n1n_prefect.cli import demo, main
from n1n_prefect.cli.failures import exit_code_of
from n1n_prefect.testing import FAULTS, LocalGateway
from tests.testing.asking import body

PATH = "/v1beta/models/gemini-2.5-flash-image:generateContent"


class TestMain:
    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"n1n-prefect {__version__}\n"

    @pytest.mark.parametrize("argv", [[], ["nonsense"], ["gateway", "--prt", "1"], ["gateway", "--latency", "slow"]])
    def test_called_wrongly_is_two_and_says_why(self, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(argv) == 2
        assert "n1n-prefect" in capsys.readouterr().err

    def test_help_names_the_subcommands(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--help"]) == 0
        assert "gateway" in capsys.readouterr().out


@pytest.mark.slow
class TestGateway:
    def test_lists_every_fault_and_who_pays(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["gateway", "--list-faults"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == list(FAULTS)
        assert [line.split()[1] == "billed" for line in lines] == [fault.billed for fault in FAULTS.values()]

    def test_a_misspelt_fault_is_two_with_a_hint(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["gateway", "--fault", "rate_limit:2"]) == 2
        assert "Did you mean rate_limited" in capsys.readouterr().err

    def test_a_taken_port_is_one(self, gateway: LocalGateway, capsys: pytest.CaptureFixture[str]) -> None:
        port = gateway.base_url.rsplit(":", 1)[1]
        assert main(["gateway", "--port", port]) == 1
        said = one_line(capsys)
        assert f"Port {port} cannot be used" in said
        assert "in use" in said
        assert "--port 0 takes a free one" in said

    @pytest.mark.parametrize(
        ("option", "value", "said"),
        [
            ("--port", "-1", "'-1' is no port; give 0 to 65535"),
            ("--port", "65536", "is no port"),
            ("--port", "http", "'http' is no port"),
            ("--latency", "-1", "'-1' is no time; give seconds, 0 to 86400"),
            ("--latency", "nan", "is no time"),
            ("--latency", "inf", "is no time"),
            ("--latency", "1e300", "is no time"),
            ("--latency", "slow", "is no time"),
            ("--signature-chars", "-5", "'-5' is no length; give 0 to"),
            ("--signature-chars", "1e6", "is no length"),
            ("--signature-chars", "9" * 5000, "is no length"),
            ("--api-key", "", "it is empty"),
            ("--api-key", "a b", "spaces"),
        ],
    )
    def test_a_value_that_cannot_be_is_two(
        self, option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["gateway", option, value]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert f"argument {option}: " in last
        assert said in last

    @pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
    def test_serves_logs_and_ends_with_the_bill(self, ended_by: signal.Signals) -> None:
        options = ["--port", "0", "--canned", "--api-key", "sk-mine", "--fault", "rate_limited:2", "--fault", "ok"]
        command = [sys.executable, "-c", "import sys; from n1n_prefect.cli import main; sys.exit(main())"]
        with subprocess.Popen([*command, "gateway", *options], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            said = _until_empty_line(process.stdout)
            found = re.search(r"http://127\.0\.0\.1:\d+", said)
            assert found is not None
            assert "curl -s" in said
            headers = {"Authorization": "Bearer sk-mine"}
            statuses = [httpx.post(found[0] + PATH, json=body("a cat"), headers=headers).status_code for _ in range(3)]
            assert statuses == [429, 429, 200]
            process.send_signal(ended_by)
            log = process.stdout.read()
        assert process.returncode == 0
        assert re.search(r"2  429 .* free  bill \$0\.0000  gemini-2.5-flash-image  error, rate_limited  'a cat'", log)
        assert re.search(r"3  200 .* \$0\.0390  bill \$0\.0390  gemini-2.5-flash-image  image  'a cat'", log)
        assert "3 calls, 1 billed: $0.0390" in log


def _until_empty_line(lines: Iterator[str]) -> str:
    said = ""
    for line in lines:
        if not line.strip():
            break
        said += line
    return said


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said on stderr, which is a single line."""
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


class TestModels:
    @pytest.fixture
    def environment(self, gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
        monkeypatch.setenv("N1N_BASE_URL", gateway.base_url)
        monkeypatch.setenv("N1N_API_KEY", gateway.api_key)
        return monkeypatch

    @pytest.mark.usefixtures("environment")
    def test_lists_what_the_key_serves(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["models"]) == 0
        said = capsys.readouterr().out
        assert re.search(r"gemini-2.5-flash-image .* ratios; .* an image", said)
        assert "image models of the catalogue" in said

    @pytest.mark.parametrize("key", ["", None])
    def test_without_a_key(
        self, key: str | None, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        environment.delenv("N1N_API_KEY") if key is None else environment.setenv("N1N_API_KEY", key)
        assert main(["models"]) == 1
        assert "Set N1N_API_KEY or pass --credentials BLOCK" in one_line(capsys)

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("N1N_API_KEY", "hush hush", "api_key: "),
            ("N1N_API_KEY", "'hush'", "in quotes"),
            ("N1N_API_KEY", "hush", "API key was not accepted"),
            ("N1N_BASE_URL", "api.n1n.ai", "base_url: "),
            ("N1N_BASE_URL", "http://example.com", "in clear"),
            ("N1N_BASE_URL", "https://api..n1n.ai", "base_url: "),
            ("N1N_BASE_URL", "http://127.0.0.1:9", "not reached"),
            ("HTTP_PROXY", "ftp://me:hush@proxy", "HTTPS_PROXY"),
        ],
    )
    def test_what_cannot_work_is_one_line(
        self, name: str, value: str, said: str, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        environment.setenv(name, value)
        assert main(["models"]) == 1
        shown = one_line(capsys)
        assert said in shown
        assert "hush" not in shown

    @pytest.mark.prefect
    @pytest.mark.usefixtures("prefect_api")
    @pytest.mark.parametrize("block", ["no-such-block", "", "a/b"])
    def test_a_block_that_is_not_there(self, block: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["models", "--credentials", block]) == 1
        assert f"block {block!r} could not be loaded" in one_line(capsys)


class TestDemo:
    @pytest.mark.parametrize(("output", "said"), [("", "it is empty"), (" ", "it is empty")])
    def test_an_output_that_is_no_folder_is_two(
        self, output: str, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["demo", "--output", output]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert "argument --output: " in last
        assert said in last

    @pytest.mark.parametrize("output", [__file__, f"{__file__}/below", "/proc/n1n-demo", "/proc", "x" * 300])
    def test_an_output_that_cannot_be_written_is_one_line(
        self, output: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["demo", "--output", output]) == 1
        assert f"{output!r} is no folder to write to" in one_line(capsys)

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("N1N_API_KEY", "hush hush", "api_key: "),
            ("N1N_BASE_URL", "http://example.com", "in clear"),
            ("N1N_S3_BUCKET", "my shop", "no bucket's name"),
        ],
    )
    def test_what_its_own_process_cannot_do_is_one_line(
        self, name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("N1N_API_KEY", "sk-0123456789")
        monkeypatch.setenv(name, value)
        assert demo.main("unused") == 1
        shown = one_line(capsys)
        assert shown.startswith("n1n-prefect demo: ")
        assert said in shown
        assert "hush" not in shown


class TestExitCodeOf:
    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (RuntimeError("several\nlines"), "several lines"),
            (OSError("Bearer sk-0123456789abcdef"), "Bearer ***"),
            (httpx.ConnectError(""), "ConnectError"),
            (KeyboardInterrupt(), "Interrupted."),
        ],
    )
    def test_a_failure_is_a_line_and_one(
        self, error: BaseException, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def failing() -> int:
            raise error

        assert exit_code_of("demo", failing) == 1
        assert one_line(capsys).endswith(f"{said}\n")

    def test_an_error_in_the_program_is_not_hidden(self) -> None:
        def wrong() -> int:
            raise TypeError("a bug")

        with pytest.raises(TypeError):
            exit_code_of("demo", wrong)
