import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from n1n_prefect.__about__ import __version__
from n1n_prefect.cli import main
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
        assert main(["gateway", "--port", gateway.base_url.rsplit(":", 1)[1]]) == 1
        assert "in use" in capsys.readouterr().err

    @pytest.mark.parametrize("port", ["-1", "65536"])
    def test_a_port_that_cannot_be_is_two(self, port: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["gateway", "--port", port]) == 2
        assert "--port" in capsys.readouterr().err

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
