"""What a team has after an hour: a server, the deployments of `prefect.yaml`, blocks, a worker, a gateway and a bucket.

`workspace` is shared by the session; a test that asks for it is followed by a search for its secrets. Whatever needs
Prefect's client is run as a process: in this one it would go on to send events to this server.
"""

import json
import secrets
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest

from n1n_prefect.testing import LocalGateway
from tests.prefect_server import PrefectServer, Running, wait_for
from tests.s3_servers import S3Server, new_bucket

POOL = "n1n-pool"
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
_SAVE = """
import json, os
from n1n_prefect import N1nCredentials, S3Location
blocks = json.loads(os.environ["BLOCKS"])
N1nCredentials(**blocks["n1n-credentials"]).save("default", overwrite=True)
S3Location(**blocks["s3-image-location"]).save("default", overwrite=True)
"""


@dataclass
class Workspace:
    """The parts, and what one does with them; deployments are named as in `FLOW/NAME`, runs by their ids."""

    server: PrefectServer
    gateway: LocalGateway
    blocks: dict[str, dict[str, str]]
    """The fields of the two blocks `default`, by type; what is secret is in clear."""
    s3: Any
    worker: Running | None = None
    _processes: ExitStack = field(default_factory=ExitStack)
    _workers: int = 0

    @property
    def secrets(self) -> list[str]:
        """What must be nowhere: the gateway's key and the store's."""
        return [self.blocks["n1n-credentials"]["api_key"], self.blocks["s3-image-location"]["aws_secret_access_key"]]

    @property
    def bucket(self) -> str:
        return self.blocks["s3-image-location"]["bucket"]

    def save_blocks(self) -> None:
        """Both blocks as `default`, which is what the deployments refer to; nothing where they are saved already."""
        if not all(self._is_saved(slug, fields) for slug, fields in self.blocks.items()):
            self.server.run("python", "-c", _SAVE, BLOCKS=json.dumps(self.blocks))

    def _is_saved(self, slug: str, fields: dict[str, str]) -> bool:
        document = f"/block_types/slug/{slug}/block_documents/name/default?include_secrets=true"
        reply = httpx.get(f"{self.server.api_url}{document}", timeout=30)
        return reply.is_success and fields.items() <= reply.json()["data"].items()

    def deploy(self, *options: str, **environment: str) -> str:
        """The output of `prefect deploy --all`."""
        return self.server.run("prefect", "--no-prompt", "deploy", "--all", *options, **environment)

    def start_worker(self) -> Running:
        """A new worker, in the place of one that has ended."""
        self._workers += 1
        name = f"worker-{self._workers}"
        command = ("prefect", "worker", "start", "--pool", POOL, "--name", name)
        self.worker = self._processes.enter_context(self.server.running(*command, log=name))
        return self.worker

    def close(self) -> None:
        """Ends the workers."""
        self._processes.close()

    # ── runs ─────────────────────────────────────────────────────────────────

    def deployment(self, name: str) -> dict[str, Any]:
        return self.server.get(f"/deployments/name/{name}")

    def start(self, name: str, **parameters: Any) -> str:
        """The id of a new run, as the UI and other programs start one."""
        return self.server.post(f"/deployments/{self.deployment(name)['id']}/create_flow_run", parameters=parameters)[
            "id"
        ]

    def refusal(self, name: str, **parameters: Any) -> str:
        """What the API says to a run that it does not create."""
        path = f"{self.server.api_url}/deployments/{self.deployment(name)['id']}/create_flow_run"
        reply = httpx.post(path, json={"parameters": parameters}, timeout=30)
        assert reply.status_code == 409, reply.text
        return reply.json()["detail"]

    def runs(self, name: str) -> list[dict[str, Any]]:
        """The runs of a deployment, the latest first."""
        ids = {"id": {"any_": [self.deployment(name)["id"]]}}
        return self.server.post("/flow_runs/filter", deployments=ids, sort="START_TIME_DESC")

    def state(self, run: str) -> dict[str, Any]:
        return self.server.get(f"/flow_runs/{run}")["state"]

    def ended(self, run: str) -> dict[str, Any]:
        """The state in which the run has ended; waits for it."""
        wait_for(lambda: self.state(run)["type"] in ENDED, f"the end of flow run {run}")
        return self.state(run)

    # ── what they leave ──────────────────────────────────────────────────────

    def events(self, run: str, least: int) -> list[dict[str, Any]]:
        """Our events about images of the run; the server takes its time, so waits for so many of them."""
        related = {"id": [f"prefect.flow-run.{run}"]}
        query = {"event": {"prefix": ["n1n."]}, "any_resource": related}

        def found() -> list[dict[str, Any]] | None:
            events = self.server.post("/events/filter", filter=query, limit=50)["events"]
            return events if len(events) >= least else None

        return wait_for(found, f"{least} events of flow run {run}")

    def artifacts(self, run: str) -> dict[str, str]:
        """The run's artifacts by key."""
        found = self.server.post("/artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
        return {artifact["key"]: artifact["data"] for artifact in found}

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """The objects in the bucket by key."""
        listed = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return {
            entry["Key"]: self.s3.get_object(Bucket=self.bucket, Key=entry["Key"])["Body"].read() for entry in listed
        }

    def send(self, event: str, resource: str, **payload: Any) -> None:
        """Reports an event as a program without Prefect does."""
        body = {
            "id": str(uuid.uuid4()),
            "occurred": datetime.now(timezone.utc).isoformat(),
            "event": event,
            "resource": {"prefect.resource.id": resource},
            "payload": payload,
        }
        httpx.post(f"{self.server.api_url}/events", json=[body], timeout=30).raise_for_status()

    def leaks(self) -> list[Path]:
        """The files of the server and its workers that hold a secret: database, results, logs, what runs left."""
        return [path for secret in self.secrets for path in self.server.holding(secret)]


@pytest.fixture(scope="session")
def _workspace(prefect_server: PrefectServer, moto_server: S3Server, moto_client: Any) -> Iterator[Workspace]:
    with LocalGateway(api_keys=[f"sk-{secrets.token_hex(24)}"], hash_images=True) as gateway:
        blocks = {
            "n1n-credentials": {"api_key": gateway.api_key, "base_url": gateway.base_url},
            "s3-image-location": {
                "bucket": new_bucket(moto_client),
                "prefix": "finished",
                "endpoint_url": moto_server.endpoint_url,
                "region_name": "us-east-1",
                "aws_access_key_id": moto_server.access_key,
                "aws_secret_access_key": secrets.token_hex(20),
            },
        }
        workspace = Workspace(prefect_server, gateway, blocks, moto_client)
        workspace.save_blocks()
        prefect_server.run("prefect", "work-pool", "create", POOL, "--type", "process", "--overwrite")
        workspace.deploy()
        workspace.start_worker()
        yield workspace
        workspace.close()


@pytest.fixture
def workspace(_workspace: Workspace) -> Iterator[Workspace]:
    """The session's workspace, with an empty ledger and no faults; in the end its secrets are nowhere."""
    _workspace.gateway.reset()
    _workspace.save_blocks()  # other tests save theirs under the same name
    yield _workspace
    assert _workspace.leaks() == []
