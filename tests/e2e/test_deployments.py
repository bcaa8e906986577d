"""The package as a team runs it: deployed, triggered by hand, clock and event, killed, and taken up again."""

import hashlib
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from tests.prefect_server import wait_for

pytestmark = pytest.mark.prefect

GENERATE, EDIT = "generate-to-s3/generate-to-s3", "edit-to-s3/edit-to-s3"
APPROVE = "approve-then-publish/approve-then-publish"
BATCH, CHUNK = "batch-to-s3/batch-to-s3", "batch-chunk/batch-chunk"


BY_VALUE = f"""
from prefect.deployments import run_deployment
from n1n_prefect import N1nCredentials
given = {{"prompts": ["a fox"], "credentials": N1nCredentials.load("default")}}
print("run", run_deployment("{GENERATE}", parameters=given, timeout=0, as_subflow=False).id)
"""


def by_slug(slug):
    return {"$ref": {"block_document_slug": slug}}


def billed(workspace):
    """How often each prompt was charged."""
    prompts = [call.prompt_excerpt for call in workspace.gateway.ledger.billed]
    return {prompt: prompts.count(prompt) for prompt in prompts}


def delivered(workspace):
    """The hashes of the images that the gateway sent."""
    return {call.image_sha256 for call in workspace.gateway.ledger.billed if call.delivered}


class TestDeployed:
    def test_blocks_are_references(self, workspace):
        for name, place in (*((name, "destination") for name in (GENERATE, EDIT, BATCH)), (APPROVE, "published")):
            parameters = workspace.deployment(name)["parameters"]
            for block in ("credentials", place):
                assert parameters[block].keys() == {"$ref"}
                assert parameters[block]["$ref"].keys() == {"block_document_id"}

    def test_a_schedule_costs_nothing_until_it_is_switched_on(self, workspace):
        assert [schedule["active"] for schedule in workspace.deployment(GENERATE)["schedules"]] == [False]

    def test_the_form_has_a_sentence_for_each_field(self, workspace):
        for name in (GENERATE, EDIT, APPROVE, BATCH, CHUNK):
            fields = workspace.deployment(name)["parameter_openapi_schema"]["properties"]
            assert [field for field, schema in fields.items() if not schema.get("description")] == []
        for name in (GENERATE, EDIT, APPROVE):
            fields = workspace.deployment(name)["parameter_openapi_schema"]["properties"]
            assert [field for field, schema in fields.items() if "anyOf" in schema] == []  # shown as tabs

    def test_runs_wait_for_each_other(self, workspace):
        deployment = workspace.deployment(GENERATE)
        assert deployment["global_concurrency_limit"]["limit"] == 2
        assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"

    def test_again_changes_nothing(self, workspace):
        before = [workspace.deployment(name)["id"] for name in (GENERATE, EDIT)]
        workspace.deploy()
        assert [workspace.deployment(name)["id"] for name in (GENERATE, EDIT)] == before
        automations = workspace.server.post("/automations/filter")
        assert [entry["name"] for entry in automations].count("edit-incoming-images") == 1

    def test_a_misspelt_block_is_named_with_the_remedy(self, workspace, tmp_path):
        misspelt = tmp_path / "prefect.yaml"
        right = Path("prefect.yaml").read_text("utf-8")
        misspelt.write_text(right.replace("n1n-credentials/default", "n1n-credentials/defualt"), "utf-8")
        said = workspace.server.run(
            "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(misspelt), check=False
        )
        assert "There is no block n1n-credentials/defualt" in said
        assert "did you mean 'default'?" in said
        assert "n1n-prefect setup --credentials" in said


class TestBatch:
    def test_its_chunks_are_runs_of_another_deployment_and_nothing_is_paid_twice(self, workspace):
        rows = "".join(f"animal-{number},Draw animal {number}\n" for number in range(9))
        workspace.s3.put_object(Bucket=workspace.bucket, Key="tables/animals.csv", Body=f"id,prompt\n{rows}".encode())
        given = {"manifest": f"s3://{workspace.bucket}/tables/animals.csv", "chunk_size": 5, "deployment": CHUNK}
        state = workspace.ended(workspace.start(BATCH, **given))
        assert (state["name"], state["message"][:20]) == ("Completed", "9 items: 9 uploaded ")
        assert {run["name"] for run in workspace.runs(CHUNK)} == {"animals 00000", "animals 00001"}
        workspace.ended(workspace.start(BATCH, **given))
        assert sorted(billed(workspace).values()) == [1] * 9
        images = {key for key in workspace.objects("finished/animals/") if key.endswith(".png")}
        assert len(images) == 9


class TestKubernetes:
    def test_deployed_without_a_secret_in_job_variables(self, workspace):
        workspace.server.run("prefect", "work-pool", "create", "n1n-kubernetes", "--type", "kubernetes", "--overwrite")
        file = ("--prefect-file", "prefect.kubernetes.yaml")
        workspace.deploy(*file, N1N_IMAGE="registry.example.com/n1n-prefect:1")
        for flow in ("generate-to-s3", "edit-to-s3", "batch-to-s3", "approve-then-publish"):
            deployment = workspace.deployment(f"{flow}/{flow}-kubernetes")
            variables = deployment["job_variables"]
            assert variables["image"] == "registry.example.com/n1n-prefect:1"
            assert variables["env"] == {
                "PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK": "s3-bucket/results",
                "PREFECT_INTEGRATIONS_N1N_ON_UNSHARED_STORAGE": "fail",
            }
            known = workspace.server.get("/work_pools/n1n-kubernetes")["base_job_template"]["variables"]["properties"]
            assert variables.keys() - known.keys() == set()  # an unknown one would be ignored
            assert deployment["parameters"]["credentials"].keys() == {"$ref"}
            [step] = deployment["pull_steps"]
            assert step["prefect.deployments.steps.set_working_directory"]["directory"] == "/opt/n1n"

    def test_without_an_image_it_says_what_to_set(self, workspace):
        file = ("--prefect-file", "prefect.kubernetes.yaml")
        said = workspace.server.run("prefect", "--no-prompt", "deploy", "--all", *file, check=False)
        assert "N1N_IMAGE: must name the image that was built from the Dockerfile and pushed" in said


class TestByHand:
    def test_with_the_deployment_s_own_blocks(self, workspace):
        before = workspace.objects()
        run = workspace.start(GENERATE, prompts=["a red fox", "an owl at night"], aspect_ratio="1:1")
        state = workspace.ended(run)
        assert (state["name"], state["message"][:21]) == ("Completed", "2 images: 2 uploaded.")

        new = workspace.objects().items() - before.items()
        assert {hashlib.sha256(data).hexdigest() for _, data in new} == delivered(workspace)
        assert all(key.startswith("finished/") for key, _ in new)
        assert workspace.gateway.ledger.duplicates() == []
        assert billed(workspace) == {"a red fox": 1, "an owl at night": 1}

        sheet = workspace.artifacts(run)["generated-images"]
        assert sheet.count("data:image/") == 2
        events = [event["event"] for event in workspace.events(run, 5)]
        assert sorted(events) == ["n1n.image.generated"] * 2 + ["n1n.image.uploaded"] * 2 + ["n1n.run.reported"]

    def test_with_references_by_slug(self, workspace):
        blocks = {
            "credentials": by_slug("n1n-credentials/default"),
            "destination": by_slug("s3-image-location/default"),
        }
        run = workspace.start(GENERATE, prompts=["a hare"], **blocks)
        assert workspace.ended(run)["name"] == "Completed"
        assert billed(workspace) == {"a hare": 1}
        assert workspace.server.get(f"/flow_runs/{run}")["parameters"]["credentials"] == blocks["credentials"]

    def test_a_failure_says_what_happened_and_what_to_do(self, workspace):
        workspace.gateway.faults.add("quota_exhausted", times=None)
        state = workspace.ended(workspace.start(GENERATE, prompts=["a hen"]))
        assert state["name"] == "Failed"
        assert "Top up the account" in state["message"]
        assert workspace.gateway.ledger.billed == []

    @pytest.mark.parametrize(
        ("field", "value", "why"),
        [
            ("aspect_ratio", "7:1", "'7:1' is not one of"),
            ("image_size", "8K", "'8K' is not one of"),
            ("model", "dall-e-2", "'dall-e-2' is not one of"),
            ("prompts", [], "should be non-empty"),
            ("prompts", [""], "should be non-empty"),
            ("prompts", "a fox", "is not of type 'array'"),
            ("credentials", "default", "is not valid under any of the given schemas"),
        ],
    )
    def test_what_the_form_has_not_is_refused_and_named(self, field, value, why, workspace):
        refused = workspace.refusal(GENERATE, **{"prompts": ["a fox"], field: value})
        assert f"Validation failed for field '{field}" in refused
        assert why in refused
        assert workspace.gateway.ledger.calls == []

    def test_a_block_in_the_place_of_its_reference_is_refused_with_the_remedy(self, workspace):
        run = workspace.server.run("python", "-c", BY_VALUE).rpartition("run ")[2].strip()
        state = workspace.ended(run)
        assert state["name"] == "Failed"
        assert "api_key: it is only asterisks, which is how Prefect shows a secret" in state["message"]
        assert "Pass it by reference, {'$ref': {'block_document_slug': 'n1n-credentials/NAME'}}" in state["message"]
        assert workspace.gateway.ledger.calls == []


class TestByTheClock:
    def test_a_schedule_that_was_switched_on(self, workspace):
        deployment = workspace.deployment(GENERATE)
        [schedule] = deployment["schedules"]
        path = f"/deployments/{deployment['id']}/schedules/{schedule['id']}"
        try:
            run = due_soon(workspace, path)
            assert workspace.ended(run)["message"].startswith("2 images: 2 uploaded.")
        finally:
            workspace.server.patch(path, active=False, schedule=schedule["schedule"])
        assert sorted(billed(workspace)) == [
            "A lighthouse on a cliff at dusk, calm sea",
            "A market stall full of oranges in morning light",
        ]
        assert workspace.gateway.ledger.duplicates() == []


def due_soon(workspace, path):
    """The run of a schedule that is switched on, once in seconds and then not for a day."""
    before = {run["id"] for run in workspace.runs(GENERATE)}

    def planned():
        return [run for run in workspace.runs(GENERATE) if run["auto_scheduled"] and run["id"] not in before]

    for seconds in (5, 20, 80):  # a busy scheduler may come when the moment is over
        soon = datetime.now(timezone.utc) + timedelta(seconds=seconds)
        daily = {"interval": 86400, "anchor_date": soon.isoformat(), "timezone": "UTC"}
        workspace.server.patch(path, schedule=daily)
        workspace.server.patch(path, active=True)  # as the switch in the UI does
        runs = wait_for(planned, "runs that the scheduler has planned")
        first = min(runs, key=lambda run: run["expected_start_time"])
        if datetime.fromisoformat(first["expected_start_time"].replace("Z", "+00:00")) < soon + timedelta(hours=1):
            return first["id"]
        workspace.server.patch(path, active=False)
        wait_for(lambda: not planned(), "that nothing is planned any more")
    raise AssertionError("the scheduler always came too late")


class TestByEvent:
    def test_an_object_that_came_is_edited(self, workspace):
        bucket, key = workspace.bucket, "incoming/cup.png"
        Image.effect_noise((512, 512), 64).save(picture := BytesIO(), "png")
        workspace.s3.put_object(Bucket=bucket, Key=key, Body=picture.getvalue())
        before = {run["id"] for run in workspace.runs(EDIT)}
        finished = workspace.objects("finished/")

        workspace.send("s3.object.created", f"s3://{bucket}/elsewhere/cup.png")
        workspace.send("s3.object.created", f"s3://{bucket}/{key}", instruction="Make it red")

        def started():
            return [run for run in workspace.runs(EDIT) if run["id"] not in before]

        [run] = wait_for(started, "a run that the event has started")
        assert run["parameters"]["images"] == [f"s3://{bucket}/{key}"]
        assert run["parameters"]["credentials"].keys() == {"$ref"}
        state = workspace.ended(run["id"])
        assert (state["name"], state["message"][:20]) == ("Completed", "1 image: 1 uploaded."), state
        assert billed(workspace) == {"Make it red": 1}
        [(_, edited)] = workspace.objects("finished/").items() - finished.items()
        assert {hashlib.sha256(edited).hexdigest()} == delivered(workspace)
        assert len(started()) == 1  # its own upload starts none


class TestServed:
    def test_without_a_work_pool(self, workspace):
        with workspace.server.running("python", "flows/serve.py", log="serve") as serving:
            wait_for(lambda: "polling for scheduled runs" in serving.output, "flows/serve.py's deployments")
            run = workspace.start("generate-to-s3/served", prompts=["a stork"])
            assert workspace.ended(run)["message"].startswith("1 image: 1 uploaded.")
        assert billed(workspace) == {"a stork": 1}
        assert workspace.deployment("generate-to-s3/served")["parameters"]["credentials"].keys() == {"$ref"}
        assert workspace.deployment("edit-to-s3/served")["paused"]  # nobody serves it now


class TestWorkerLost:
    def test_another_worker_goes_on_and_pays_for_nothing_again(self, workspace):
        before = workspace.objects()
        faults = workspace.gateway.faults
        faults.add("rate_limited", match="was told to wait", seconds=600)
        faults.add("slow", match="was in flight", seconds=600)
        prompts = ["answered, a fox", "answered, an owl", "was told to wait", "was in flight"]
        run = workspace.start(GENERATE, prompts=prompts)
        wait_for(lambda: len(workspace.objects()) == len(before) + 2, "two images in the bucket")
        wait_for(lambda: len(workspace.gateway.ledger.calls) == 4, "all four calls")

        processes = psutil.Process(workspace.worker.process.pid).children(recursive=True)
        assert any("prefect" in " ".join(process.cmdline()) for process in processes)
        workspace.worker.kill()
        psutil.wait_procs(processes, 30)
        assert [process for process in processes if alive(process)] == []
        assert workspace.state(run)["name"] == "Running"  # nobody is left to say otherwise

        told = workspace.server.run("n1n-prefect", "resume", run, check=False)
        assert "A run whose process was killed stays so for ever: if you are sure, pass --force." in told
        workspace.server.run("n1n-prefect", "resume", "--force", run)
        wait_for(lambda: workspace.state(run)["name"] == "Late", "that the run is late where no worker is")
        workspace.start_worker()
        state = workspace.ended(run)
        assert state["name"] == "Completed"
        assert state["message"].startswith("4 images: 2 already there, 2 uploaded.")

        assert billed(workspace) == {
            "answered, a fox": 1,
            "answered, an owl": 1,
            "was told to wait": 1,
            "was in flight": 2,  # its answer was lost with the worker: Spending allows one more
        }
        assert [group[0].prompt_excerpt for group in workspace.gateway.ledger.duplicates()] == ["was in flight"]
        new = workspace.objects().items() - before.items()
        sums = {hashlib.sha256(data).hexdigest() for _, data in new}
        assert len(sums) == 4
        assert sums <= delivered(workspace)


class TestProcessKilled:
    """The worker lives on, and says that the run has crashed; once more if it runs again too soon."""

    @pytest.fixture
    def automated(self, workspace):
        workspace.server.run("n1n-prefect", "setup", "--automations")
        yield
        for automation in workspace.server.post("/automations/filter"):
            if automation["name"].startswith("n1n: "):
                path = f"{workspace.server.api_url}/automations/{automation['id']}"
                wait_for(lambda path=path: httpx.delete(path).status_code in (204, 404), "that it is deleted")

    def test_the_run_goes_on_by_itself_and_pays_for_nothing_again(self, workspace, automated):
        before = workspace.objects()
        workspace.gateway.faults.add("slow", match="when it was killed", seconds=600)
        run = workspace.start(GENERATE, prompts=["answered before", "when it was killed"])
        wait_for(lambda: len(workspace.objects()) == len(before) + 1, "an image in the bucket")
        wait_for(lambda: len(workspace.gateway.ledger.calls) == 2, "both calls")
        (process,) = psutil.Process(workspace.worker.process.pid).children()
        process.kill()
        wait_for(lambda: workspace.state(run)["name"] == "Completed", "that the run goes on to its end")
        assert workspace.state(run)["message"].startswith("2 images: 1 already there, 1 uploaded.")
        history = [state["name"] for state in workspace.server.get(f"/flow_run_states/?flow_run_id={run}")]
        assert [name for name in history if name in ("Crashed", "GoesOn")] == ["Crashed", "GoesOn"]
        assert billed(workspace) == {"answered before": 1, "when it was killed": 2}


def alive(process):
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
