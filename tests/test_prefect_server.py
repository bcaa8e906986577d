"""The real server that other tests stand on."""

import base64
import pickle
from pathlib import Path

import pytest

from tests.prefect_server import PrefectServer


@pytest.mark.prefect
def test_the_server_answers_and_tells_its_page_where(prefect_server: PrefectServer) -> None:
    assert prefect_server.get("/health") is True
    assert prefect_server.ui_url in prefect_server.run("prefect", "config", "view")


def test_a_secret_is_found_wherever_it_hides(tmp_path: Path) -> None:
    server, secret = PrefectServer(0, tmp_path), "sk-that-must-not-be-here"
    (tmp_path / "plain").write_text(f"key={secret}")
    for offset in range(3):
        pickled = pickle.dumps("x" * offset + secret)
        (tmp_path / f"result-{offset}").write_bytes(b'{"data": "' + base64.b64encode(pickled) + b'"}')
    (tmp_path / "clean").write_text("sk-**********")
    assert {path.name for path in server.holding(secret)} == {"plain", "result-0", "result-1", "result-2"}
