"""A person decides: asked through the real engine, answered through the API."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL

from n1n_prefect import S3Location
from tests.s3_servers import S3Server, new_bucket

ROOT = Path(__file__).parents[1]
FLOW = load_flow_from_entrypoint(f"{ROOT}/flows/approve_then_publish.py:approve_then_publish")

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_api")]


class Person:
    """Answers, in a thread of its own, each time that a run of this name waits; like a script of a user's."""

    def __init__(self, name: str, *answers: Callable[["Person"], Any]) -> None:
        self.name, self.answers = name, list(answers)
        self.replies: list[httpx.Response] = []
        self.run: dict[str, Any] = {}
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> "Person":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join(120)
        if self.failure:
            raise self.failure
        assert not self.thread.is_alive()

    def _live(self) -> None:
        try:
            for answer in self.answers:
                self.wait_until_asked()
                answer(self)
        except BaseException as exc:
            self.failure = exc

    def post(self, path: str, **body: Any) -> httpx.Response:
        reply = httpx.post(f"{PREFECT_API_URL.value()}{path}", json=body, timeout=30)
        assert reply.is_success, reply.text
        return reply

    def look(self) -> dict[str, Any]:
        found = self.post("/flow_runs/filter", flow_runs={"name": {"any_": [self.name]}}).json()
        self.run = found[0] if found else {}
        return self.run

    def wait_until_asked(self) -> None:
        for _ in range(600):
            run = self.look()
            if run and run["state"]["type"] == "PAUSED" and self.input("schema"):
                return
            time.sleep(0.1)
        raise AssertionError(f"{self.name} was not asked: {run and run['state']}")

    def input(self, what: str) -> Any:
        key = self.run["state"]["state_details"]["run_input_keyset"][what]
        reply = httpx.get(f"{PREFECT_API_URL.value()}/flow_runs/{self.run['id']}/input/{key}", timeout=30)
        return reply.json() if reply.is_success else None

    def says(self, **run_input: Any) -> dict[str, Any]:
        reply = self.post(f"/flow_runs/{self.run['id']}/resume", run_input=run_input)
        self.replies.append(reply)
        return reply.json()


def says(**run_input: Any) -> Callable[[Person], Any]:
    return lambda person: person.says(**run_input)


@pytest.fixture
def places(moto_server: S3Server, moto_client: Any) -> tuple[S3Location, S3Location]:
    bucket = new_bucket(moto_client)
    return moto_server.location(bucket, prefix="pending"), moto_server.location(bucket, prefix="published")


def keys(client: Any, place: S3Location) -> set[str]:
    found = client.list_objects_v2(Bucket=place.bucket, Prefix=f"{place.prefix}/").get("Contents", [])
    return {item["Key"].rpartition("/")[2] for item in found}


def run_flow(name: str, *args: Any, **options: Any) -> Any:
    return FLOW.with_options(flow_run_name=name)("a red fox", *args, return_state=True, **options)


def test_mixed_decisions(n1n_gateway, n1n_credentials, places, moto_client, request):
    name = request.node.name
    with Person(
        name,
        says(approve=["image 1"], regenerate=["image 3"], note="2: too dark\n3: at night"),
        says(approve=["image 1"], reviewer="Ann"),
    ):
        state = run_flow(name, n1n_credentials, *places)
    assert state.message.startswith("4 images: 2 uploaded, 2 rejected. Estimated cost $0.16.")
    assert [row.reason for row in state.result()[2:]] == [
        "Rejected: too dark",
        "Sent back to be drawn anew: at night",
    ]
    assert keys(moto_client, places[0]) == set()
    assert len(keys(moto_client, places[1])) == 2
    assert sorted(call.prompt_excerpt for call in n1n_gateway.ledger.billed) == 3 * ["a red fox"] + [
        "a red fox at night"
    ]
