"""How a subcommand ends where it cannot go on."""

import subprocess
import sys

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from n1n_prefect.cli import main
from tests.s3_servers import free_port

COMMAND = "import sys; from n1n_prefect.cli import main; sys.exit(main(sys.argv[1:]))"


def test_nobody_reads_it_any_more():
    command = [sys.executable, "-c", COMMAND, "gateway", "--list-faults"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # as `head` does
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.prefect
@pytest.mark.parametrize(
    "command",
    [["batch", "week.csv"], ["link", "a.png", "--location", "default"], ["models", "--credentials", "default"]],
)
def test_a_server_that_is_not_there(command, capsys):
    url = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: url}):
        assert main(command) == 1
    assert f"No Prefect server answers at {url}" in capsys.readouterr().err
