"""A shop that works with the package: its gateway, bucket, saved blocks and served flows, on one Prefect server."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from n1n_prefect.testing import LocalGateway
from tests.prefect_server import PrefectServer, wait_for
from tests.s3_servers import S3Server

API_KEY = "sk-browser-4f1c7e2b9a60d358"
AWS_SECRET = "aws-browser-secret-9d3e5b7a1c20"
CREDENTIALS = "shop-gateway"
DESTINATION = "product-images"
PENDING = "pending-images"
_ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass(frozen=True)
class Shop:
    """What people look at in these tests, and what stands behind it."""

    server: PrefectServer
    gateway: LocalGateway
    bucket: str
    secrets: tuple[str, ...] = (API_KEY, AWS_SECRET)
    blocks: dict[str, str] = field(default_factory=dict)
    """Ids of the saved blocks by their names."""

    def save_block(self, slug: str, name: str, **data: Any) -> None:
        """Saves a block document as the UI does."""
        block_type = self.server.get(f"/block_types/slug/{slug}")["id"]
        schemas = self.server.post("/block_schemas/filter", block_schemas={"block_type_id": {"any_": [block_type]}})
        saved = self.server.post(
            "/block_documents/", name=name, data=data, block_type_id=block_type, block_schema_id=schemas[0]["id"]
        )
        self.blocks[name] = saved["id"]

    def deployment(self, flow: str) -> str:
        """The id of a served flow's deployment."""
        return self.server.get(f"/deployments/name/{flow}/shop")["id"]

    def start(self, flow: str, **parameters: Any) -> str:
        """The id of a new run, as any client of the API starts it; a parameter that names a block is a reference."""
        given = {name: self._reference(value) for name, value in parameters.items()}
        path = f"/deployments/{self.deployment(flow)}/create_flow_run"
        return self.server.post(path, parameters=given, state={"type": "SCHEDULED"})["id"]

    def _reference(self, value: Any) -> Any:
        known = isinstance(value, str) and value in self.blocks
        return {"$ref": {"block_document_id": self.blocks[value]}} if known else value

    def generate(self, *prompts: str) -> str:
        """The id of a run of `generate_to_s3` that has ended."""
        return self.ended(
            self.start("generate-to-s3", prompts=prompts, credentials=CREDENTIALS, destination=DESTINATION)
        )

    def state_of(self, run: str) -> dict[str, Any]:
        return self.server.get(f"/flow_runs/{run}")["state"]

    def ended(self, run: str) -> str:
        """The run, once it has ended and the server has digested all that it did."""
        wait_for(lambda: self.state_of(run)["type"] in _ENDED, f"the end of run {run}")
        wait_for(lambda: self._is_digested(run), f"the task runs of run {run}")
        return run

    def paused(self, run: str) -> str:
        """The run, once it waits for a person."""
        wait_for(lambda: self.state_of(run)["type"] in {"PAUSED", *_ENDED}, f"the pause of run {run}")
        assert self.state_of(run)["type"] == "PAUSED", self.state_of(run)
        return run

    def paused_again(self, run: str) -> None:
        """Waits until a run that was resumed waits for the second time."""
        wait_for(lambda: self._count_of_pauses(run) > 1, f"the second pause of run {run}")

    def _count_of_pauses(self, run: str) -> int:
        states = self.server.get(f"/flow_run_states/?flow_run_id={run}")
        return sum(state["type"] == "PAUSED" for state in states)

    def task_runs(self, run: str) -> list[dict[str, Any]]:
        return self.server.post("/task_runs/filter", flow_runs={"id": {"any_": [run]}})

    def _is_digested(self, run: str) -> bool:
        found = self.task_runs(run)
        return bool(found) and all(_is_over(task_run) for task_run in found)


def _is_over(task_run: dict[str, Any]) -> bool:
    """A task whose predecessor failed is never started: Prefect leaves it pending, as NotReady."""
    return task_run["state_type"] in _ENDED or task_run["state_name"] == "NotReady"


@contextmanager
def opened_shop(server: PrefectServer, s3: S3Server, bucket: str) -> Iterator[Shop]:
    """The shop with two blocks and its flows served by a process of their own."""
    server.run("prefect", "block", "register", "-m", "n1n_prefect")
    with LocalGateway(api_keys=[API_KEY]) as gateway:
        gateway.faults.add("IMAGE_PROHIBITED_CONTENT", times=None, match="forbidden")
        shop = Shop(server, gateway, bucket)
        shop.save_block("n1n-credentials", CREDENTIALS, api_key=API_KEY, base_url=gateway.base_url)
        for name, prefix in ((DESTINATION, "products"), (PENDING, "pending")):
            place = s3.location(bucket, prefix=prefix).model_dump(include={"bucket", "prefix", "endpoint_url"})
            keys = {"aws_access_key_id": "shop-access-key", "aws_secret_access_key": AWS_SECRET}
            shop.save_block("s3-image-location", name, region_name="us-east-1", **place, **keys)
        script = Path(__file__).with_name("serving.py")
        with server.running("python", str(script), log="shop", PREFECT_RUNNER_POLL_FREQUENCY="1") as serving:
            wait_for(lambda: "being served" in serving.output, "the served flows")
            yield shop
