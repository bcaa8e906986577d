"""Local result storage in runs of work pools that share no disk."""

import uuid

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.flow_engine import run_flow

from n1n_prefect import N1nCredentials, errors, generate_image

SMALL = {"model": "gemini-3.1-flash-image", "image_size": "512"}
SETTING = "PREFECT_INTEGRATIONS_N1N_ON_UNSHARED_STORAGE"

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_api")]


@pytest.fixture
def gateway(n1n_gateway_factory):
    return n1n_gateway_factory(canned=True)


@pytest.fixture
def run_in(gateway):
    """Runs a flow of two images as a worker of a pool of some type would."""

    @flow
    def draw_two():
        credentials = N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url)
        return [generate_image(prompt, credentials=credentials, **SMALL) for prompt in ("a", "b")]

    def run(kind):
        with get_client(sync_client=True) as client:
            name = f"{kind}-{uuid.uuid4().hex[:8]}"
            client.create_work_pool(WorkPoolCreate(name=name, type=kind))
            flow_id = client.create_flow(draw_two)
            deployment = client.create_deployment(flow_id, name=name, work_pool_name=name, work_queue_name="default")
            return run_flow(draw_two, flow_run=client.create_flow_run_from_deployment(deployment))

    return run


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if "share no disk" in r.getMessage() and r.levelname == "WARNING"]


def test_one_warning_a_run_names_the_setting(run_in, caplog):
    run_in("kubernetes")
    (warning,) = warnings(caplog)
    assert "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK" in warning
    assert "kubernetes work pool 'kubernetes-" in warning


def test_a_pool_of_processes_shares_its_machine_s_disk(run_in, caplog):
    run_in("process")
    assert warnings(caplog) == []


def test_who_asks_for_it_gets_an_error_before_anything_is_spent(run_in, gateway, monkeypatch):
    monkeypatch.setenv(SETTING, "fail")
    with pytest.raises(errors.StagingError, match=r"share no disk.* Nothing was spent") as caught:
        run_in("docker")
    assert not caught.value.is_transient
    assert gateway.ledger.calls == []


def test_a_folder_that_is_shared_after_all(run_in, caplog, monkeypatch):
    monkeypatch.setenv(SETTING, "allow")
    run_in("ecs")
    assert warnings(caplog) == []
