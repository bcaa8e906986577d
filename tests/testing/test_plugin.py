import os
import subprocess
import sys
from pathlib import Path

import httpx

import n1n_prefect
from n1n_prefect.testing import LocalGateway
from tests.testing.asking import asking, body

SUITE = """
import httpx

pytest_plugins = ["n1n_prefect.testing.plugin"]
seen = []


def ask(gateway):
    path = "/v1beta/models/gemini-2.5-flash-image:generateContent"
    asked = {"contents": [{"parts": [{"text": "a cat"}]}]}
    headers = {"Authorization": f"Bearer {gateway.api_key}"}
    return httpx.post(gateway.base_url + path, json=asked, headers=headers, timeout=30).status_code


def test_one_leaves_a_mess(n1n_gateway):
    seen.append(n1n_gateway.base_url)
    n1n_gateway.latency_seconds = 0.01
    n1n_gateway.faults.plan(["internal", "slow:*"])
    assert ask(n1n_gateway) == 500


def test_two_finds_none_of_it(n1n_gateway, n1n_credentials):
    assert seen == [n1n_gateway.base_url]
    assert n1n_gateway.ledger.calls == [] and n1n_gateway.faults.pending == []
    assert n1n_gateway.latency_seconds == 0
    assert ask(n1n_gateway) == 200
    assert n1n_credentials.base_url == n1n_gateway.base_url


def test_three_has_gateways_of_its_own(n1n_gateway, n1n_gateway_factory):
    own, other = n1n_gateway_factory(canned=True), n1n_gateway_factory(api_keys=["sk-b"], canned=True)
    assert len({n1n_gateway.base_url, own.base_url, other.base_url}) == 3
    assert ask(other) == 200 and other.api_key == "sk-b"
    seen.append(own)


def test_four_finds_them_closed():
    try:
        seen[-1].base_url
    except RuntimeError:
        return
    raise AssertionError("still running")


def test_five_asks_what_a_flow_pays(n1n_fault_matrix):
    def flow_call(credentials):
        with credentials.get_client() as client:
            return client.generate("a cat").data

    n1n_fault_matrix(flow_call, faults=["ok", "internal", "reset_mid_body"]).assert_paid_once()
"""


class TestASuiteOfItsOwn:
    def test_gets_fresh_state_for_each_test_from_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "test_suite.py").write_text(SUITE)
        (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider", str(tmp_path)]
        environment = os.environ | {"PYTHONPATH": str(Path(n1n_prefect.__file__).parents[1])}
        ran = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert "5 passed" in ran.stdout, ran.stdout + ran.stderr


class TestCredentials:
    def test_are_unsaved_and_for_this_gateway(self, n1n_gateway: LocalGateway, n1n_credentials) -> None:
        assert n1n_credentials._block_document_id is None
        assert n1n_credentials.base_url == n1n_gateway.base_url
        key = n1n_credentials.api_key.get_secret_value()
        assert httpx.get(f"{n1n_gateway.base_url}/v1/models", headers={"Authorization": f"Bearer {key}"}).is_success


class TestFactory:
    def test_takes_the_gateways_options(self, n1n_gateway_factory) -> None:
        gateway = n1n_gateway_factory(api_keys=["sk-own"], faults=["no_image"], canned=True, grain=False)
        with asking(gateway) as client:
            reply = client.post("/v1beta/models/gemini-2.5-flash-image:generateContent", json=body()).json()
        assert (gateway.api_key, reply["candidates"][0]["finishReason"]) == ("sk-own", "NO_IMAGE")
