"""A run that is suspended: its process is gone until somebody answers, or until the deadline has passed."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from n1n_prefect.testing import LocalGateway
from tests.prefect_server import PrefectServer, Running, wait_for
from tests.s3_servers import S3Server, new_bucket
from tests.test_approval import Api, Asked

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Served:
    """The example flow as a deployment, with blocks of the same name."""

    name: str
    server: PrefectServer
    gateway: LocalGateway
    store: Any
    bucket: str

    @property
    def api(self) -> Api:
        return Api(self.server.api_url)

    @contextmanager
    def serving(self) -> Iterator[Running]:
        arguments = ("python", "-m", "tests.publishing", "serve", self.name)
        with self.server.running(*arguments, log=self.name, PREFECT_RUNNER_POLL_FREQUENCY="1") as running:
            wait_for(lambda: self.api.get(self.path), "the deployment")
            yield running

    @property
    def path(self) -> str:
        return f"/deployments/name/approve-then-publish/{self.name}"

    def start(self, **parameters: Any) -> str:
        """A new run's id."""
        blocks = {
            "credentials": f"n1n-credentials/{self.name}",
            "pending": f"s3-image-location/{self.name}-pending",
            "published": f"s3-image-location/{self.name}-published",
        }
        ids = {parameter: self._id_of(*block.split("/")) for parameter, block in blocks.items()}
        given = {parameter: {"$ref": {"block_document_id": document}} for parameter, document in ids.items()}
        deployment = self.api.get(self.path)["id"]
        parameters = {"prompt": "a red fox", "wait": "suspend", **given, **parameters}
        return self.api.post(f"/deployments/{deployment}/create_flow_run", parameters=parameters)["id"]

    def _id_of(self, kind: str, name: str) -> str:
        return self.api.get(f"/block_types/slug/{kind}/block_documents/name/{name}")["id"]

    def run(self, run_id: str) -> dict[str, Any]:
        return self.api.get(f"/flow_runs/{run_id}")

    def until(self, run_id: str, *kinds: str) -> dict[str, Any]:
        return wait_for(lambda: self._if_in(run_id, kinds), f"run {run_id} in {kinds}")

    def _if_in(self, run_id: str, kinds: tuple[str, ...]) -> dict[str, Any] | None:
        run = self.run(run_id)
        assert run["state"]["type"] not in {"FAILED", "CRASHED", "COMPLETED"} - set(kinds), run["state"]
        return run if run["state"]["type"] in kinds else None

    def asked(self, run_id: str, besides: tuple[Asked, ...] = ()) -> Asked:
        """The question of a run that is suspended, and not one of the earlier ones."""
        seen = {asked.run["state"]["id"] for asked in besides}

        def look() -> Asked | None:
            run = self.until(run_id, "PAUSED")
            asked = self.api.asked(run["name"])
            return None if asked.run["state"]["id"] in seen else asked

        return wait_for(look, "another question")

    def count(self) -> tuple[int, int]:
        """How many objects are pending and how many are published."""
        prefixes = ("pending/", "published/")
        return tuple(self.store.list_objects_v2(Bucket=self.bucket, Prefix=prefix)["KeyCount"] for prefix in prefixes)  # type: ignore[return-value]

    @property
    def paid(self) -> list[str]:
        return sorted(call.prompt_excerpt for call in self.gateway.ledger.billed)


_BLOCKS = """
import sys
from n1n_prefect import N1nCredentials, S3Location
name, api_key, base_url, bucket, endpoint_url, key_id, secret = sys.argv[1:]
N1nCredentials(api_key=api_key, base_url=base_url).save(name)
for place in ("pending", "published"):
    S3Location(
        bucket=bucket, prefix=place, endpoint_url=endpoint_url, aws_access_key_id=key_id,
        aws_secret_access_key=secret, region_name="us-east-1",
    ).save(f"{name}-{place}")
"""


@pytest.fixture
def served(prefect_server: PrefectServer, n1n_gateway_factory: Any, moto_server: S3Server, moto_client: Any) -> Served:
    gateway = n1n_gateway_factory(canned=True, grain=False)
    name, bucket = f"served-{uuid.uuid4().hex[:12]}", new_bucket(moto_client)
    store = (moto_server.endpoint_url, moto_server.access_key, moto_server.secret_key)
    prefect_server.run("python", "-c", _BLOCKS, name, gateway.api_key, gateway.base_url, bucket, *store)
    return Served(name, prefect_server, gateway, moto_client, bucket)


class TestAnswered:
    def test_goes_on_in_another_process_and_pays_for_nothing_again(self, served: Served):
        with served.serving() as first:
            run_id = served.start()
            question = served.asked(run_id)
            assert question.run["state"]["name"] == "Suspended"
            wait_for(lambda: f"{run_id}' is paused" in first.output, "the end of the run's process")
        assert served.paid == ["a red fox"] * 3
        assert served.count() == (3, 0)

        # Nothing of ours is alive now, and the answer waits on the server.
        answer = {"approve": ["image 1"], "regenerate": ["image 2"], "note": "2: at night", "reviewer": "Ann"}
        assert question.says(**answer)["status"] == "ACCEPT"
        with served.serving():
            second = served.asked(run_id, (question,))
            assert second.schema["properties"]["approve"]["items"]["enum"] == ["image 4"]
            assert served.paid == ["a red fox"] * 3 + ["a red fox at night"]
            second.says(approve=["image 4"])
            done = served.until(run_id, "COMPLETED")
        assert "2 uploaded" in done["state"]["message"]
        assert served.count() == (0, 2)
        assert len(served.paid) == 4
        assert served.server.holding(served.gateway.api_key) == []

    def test_an_empty_answer_is_asked_again(self, served: Served):
        with served.serving():
            run_id = served.start(candidates=1)
            first = served.asked(run_id)
            first.says()
            second = served.asked(run_id, (first,))
            assert second.description.startswith("**Asked again.**")
            second.says(approve=["image 1"])
            served.until(run_id, "COMPLETED")
        assert served.count() == (0, 1)
        assert served.paid == ["a red fox"]


class TestDeadlines:
    def test_is_taken_by_whoever_resumes_the_run(self, served: Served):
        with served.serving():
            run_id = served.start(candidates=2, timeout_minutes=0.1, on_timeout="approve")
            failed = served.until(run_id, "FAILED")
            assert failed["state"]["message"] == "The flow was paused and never resumed."
            assert served.count() == (2, 0)
            assert "It is scheduled" in served.server.run("n1n-prefect", "resume", run_id)
            served.until(run_id, "COMPLETED", "FAILED")
        assert served.count() == (0, 2)
        assert served.paid == ["a red fox"] * 2

    def test_is_taken_by_itself_where_the_automation_is(self, served: Served):
        create = "import n1n_prefect; print(n1n_prefect.review_deadline_automation().create().id)"
        automation = served.server.run("python", "-c", create).split()[-1]
        try:
            with served.serving():
                left = served.start(candidates=1, timeout_minutes=0.1, on_timeout="reject")
                failing = served.start(candidates=1, timeout_minutes=0.1, on_timeout="fail")
                wait_for(lambda: served.run(left)["state"]["type"] == "COMPLETED", "the action")
                assert "1 rejected" in served.run(left)["state"]["message"]
                failed = wait_for(lambda: self.told(served, failing), "the failure that the flow itself told")
                assert f"n1n-prefect resume {failing}" in failed
                assert served.count() == (1, 0)
        finally:
            served.server.run("prefect", "automation", "delete", "--id", automation, check=False)
        assert served.paid == ["a red fox"] * 2

    def told(self, served: Served, run_id: str) -> str:
        state = served.run(run_id)["state"]
        return state["message"] if state["type"] == "FAILED" and "Nobody decided" in state["message"] else ""
