"""How a subcommand ends where it cannot go on."""

import subprocess
import sys

COMMAND = "import sys; from n1n_prefect.cli import main; sys.exit(main(sys.argv[1:]))"


def test_nobody_reads_it_any_more():
    command = [sys.executable, "-c", COMMAND, "gateway", "--list-faults"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # as `head` does
        assert process.stderr.read() == b""
    assert process.returncode == 141
