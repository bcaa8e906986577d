"""`n1n-prefect setup` against a real server."""

import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import prefect
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from n1n_prefect.cli import main
from n1n_prefect.cli.automations import PREFIX
from tests.prefect_server import PrefectServer

pytestmark = pytest.mark.prefect

SECRET = "sk-never-to-be-printed"
FLOW = """
from prefect import flow

@flow
def small(n: int = 1) -> int:
    return n
"""
DEPLOYMENTS = """
name: small
deployments:
  - name: {name}
    entrypoint: flow.py:small
    tags: [n1n]
    schedules: [{{cron: "0 6 * * *", active: false}}]
    work_pool: {{name: {pool}}}
"""


@pytest.fixture
def server(setup_server):
    return setup_server


@pytest.fixture
def setup(server, monkeypatch, capsys):
    """What `n1n-prefect setup` says: its exit code and its lines."""

    def setup(*argv: str, url: str = server.api_url, **environment: str) -> tuple[int, list[str]]:
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("PREFECT_API_URL", server.api_url)  # for Prefect's own command
        at = {PREFECT_API_URL: url} if url else {}
        with temporary_settings(at, restore_defaults=set() if url else {PREFECT_API_URL}):
            code = main(["setup", *argv])
        for variable in environment:
            monkeypatch.delenv(variable)
        said = "".join(capsys.readouterr())
        assert SECRET not in said
        return code, said.splitlines()

    return setup


@pytest.fixture
def setup_process(server):
    """The same in a process of its own."""

    def setup(*argv: str, **environment: str) -> tuple[int, list[str]]:
        script = "import sys; from n1n_prefect.cli import main; print('ended', main(['setup', *sys.argv[1:]]))"
        lines = server.run("python", "-c", script, *argv, check=False, **environment).splitlines()
        assert not any(SECRET in line for line in lines)
        end = next(number for number, line in enumerate(lines) if line.startswith("ended "))
        return int(lines[end].removeprefix("ended ")), lines[:end]

    return setup


@pytest.fixture
def name():
    return f"n{uuid.uuid4().hex[:10]}"


@pytest.fixture
def project(tmp_path: Path, name: str) -> Path:
    """A prefect.yaml with one deployment."""
    (tmp_path / "flow.py").write_text(FLOW)
    file = tmp_path / "prefect.yaml"
    file.write_text(DEPLOYMENTS.format(name=name, pool=name))
    return file


@pytest.fixture
def without_automations(server):
    """The server as if nobody had made automations of ours; other tests at the same one do."""
    for each in server.post("/automations/filter"):
        if each["name"].startswith(PREFIX):
            httpx.delete(f"{server.api_url}/automations/{each['id']}").raise_for_status()


def everything_on(server: PrefectServer) -> dict[str, list[str]]:
    """What a setting-up could change."""
    kinds = {
        "block_types": "/block_types/filter",
        "block_schemas": "/block_schemas/filter",
        "blocks": "/block_documents/filter",
        "limits": "/v2/concurrency_limits/filter",
        "pools": "/work_pools/filter",
        "deployments": "/deployments/filter",
        "automations": "/automations/filter",
    }
    found = {kind: server.post(path) for kind, path in kinds.items()}
    # Prefect's own deploying writes the same anew.
    told = ("name", "entrypoint", "tags", "parameters", "work_pool_name", "schedules", "paused")
    found["deployments"] = [{key: each[key] for key in told} for each in found["deployments"]]
    for schedule in (schedule for each in found["deployments"] for schedule in each["schedules"]):
        for stamp in ("id", "created", "updated"):
            del schedule[stamp]
    return {kind: sorted(json.dumps(each, sort_keys=True) for each in items) for kind, items in found.items()}


def block(server: PrefectServer, slug: str, name: str) -> dict:
    return server.get(f"/block_types/slug/{slug}/block_documents/name/{name}?include_secrets=true")["data"]


def automation(server: PrefectServer, name: str) -> dict:
    return next(each for each in server.post("/automations/filter") if each["name"] == name)


def did(lines: list[str]) -> set[str]:
    """The first words of the lines about a thing."""
    return {line[:15].strip() for line in lines if line[15:16] == " "}


def line_of(lines: list[str], what: str) -> str:
    return next(line for line in lines if what in line)


class TestSettingUp:
    @pytest.mark.usefixtures("without_automations")
    def test_all_of_it_twice_and_dry(self, server, setup_process, name, project):
        argv = [
            *("--credentials", name, "--location", name, "--concurrency-limit", f"{name}=8", "--work-pool", name),
            *("--deploy", str(project), "--automations"),
        ]
        environment = {"N1N_API_KEY": SECRET, "N1N_S3_BUCKET": "pictures", "N1N_S3_PREFIX": "products"}
        environment["N1N_CONCURRENCY_LIMIT"] = name
        before = everything_on(server)
        code, lines = setup_process(*argv, "--dry-run", **environment)
        assert code == 0
        assert everything_on(server) == before
        assert "would create    work pool " + name in line_of(lines, "work pool")
        assert f"would create    deployment {name}" in lines

        code, lines = setup_process(*argv, **environment)
        assert code == 0, lines
        assert block(server, "n1n-credentials", name)["api_key"] == SECRET
        assert block(server, "n1n-credentials", name)["concurrency_limit"] == name
        assert block(server, "s3-image-location", name)["prefix"] == "products"
        assert server.get(f"/v2/concurrency_limits/{name}")["limit"] == 8
        assert server.get(f"/work_pools/{name}")["type"] == "process"
        assert server.get(f"/deployments/name/small/{name}")["tags"] == ["n1n"]
        assert automation(server, "n1n: budget reached")["enabled"]

        after = everything_on(server)
        code, lines = setup_process(*argv, **environment)
        assert code == 0
        assert did(lines) == {"unchanged", "left out"}
        assert everything_on(server) == after

    def test_registers_the_types_that_the_server_does_not_know(self, server, setup):
        known = server.get("/block_types/slug/s3-image-location")
        httpx.delete(f"{server.api_url}/block_types/{known['id']}").raise_for_status()
        code, lines = setup("--dry-run")
        assert (code, line_of(lines, "s3-image")) == (0, "would create    block type s3-image-location")
        assert httpx.get(f"{server.api_url}/block_types/slug/s3-image-location").status_code == 404
        assert line_of(setup()[1], "s3-image") == "created         block type s3-image-location"
        assert server.get("/block_types/slug/s3-image-location")["name"] == "S3 Image Location"

    def test_a_type_of_another_version_is_updated(self, server, setup):
        known = server.get("/block_types/slug/n1n-credentials")
        change = {"description": "As it was once."}
        httpx.patch(f"{server.api_url}/block_types/{known['id']}", json=change).raise_for_status()
        assert line_of(setup()[1], "n1n-cred") == "updated         block type n1n-credentials; description"
        assert server.get("/block_types/slug/n1n-credentials")["description"] == known["description"]

    def test_what_cannot_be_done_does_not_keep_the_rest_from_it(self, server, setup, name):
        code, lines = setup("--credentials", name, "--work-pool", name, N1N_API_KEY="")
        assert code == 1
        assert line_of(lines, name).startswith(f"failed          block n1n-credentials/{name}; N1N_API_KEY is not set")
        assert server.get(f"/work_pools/{name}")["type"] == "process"

    def test_a_limit_and_a_pool_that_are_there(self, server, setup, name):
        server.post("/work_pools/", name=name, type="kubernetes")
        setup("--concurrency-limit", f"{name}=8")
        code, lines = setup("--concurrency-limit", f"{name}=3", "--work-pool", name)
        assert code == 0
        assert line_of(lines, "limit") == f"updated         concurrency limit {name}; 8 slots become 3"
        assert line_of(lines, "pool") == f"unchanged       work pool {name}; of type kubernetes"
        assert server.get(f"/v2/concurrency_limits/{name}")["limit"] == 3


class TestARace:
    """Another setting-up makes everything in between: nothing is there to be read, and nothing can be made."""

    @pytest.fixture
    def url(self) -> Iterator[str]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = {"/api/health": b"true", "/api/admin/version": json.dumps(prefect.__version__).encode()}
                self.answer(200 if self.path in known else 404, known.get(self.path, b"{}"))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.answer(409, b"{}")

            do_PUT = do_PATCH = do_POST  # noqa: N815 - the names http.server looks for

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
            yield f"http://127.0.0.1:{server.server_port}/api"
            server.shutdown()

    def test_does_not_keep_the_rest_from_being_tried(self, setup, name, url):
        code, lines = setup("--work-pool", name, "--concurrency-limit", f"{name}=2", url=url)
        assert code == 1
        tried = ("block types", "concurrency limit", f"work pool {name}")
        assert [line.partition("; ")[0] for line in lines[1:]] == [f"failed          {what}" for what in tried]


class TestBlocks:
    def test_other_values_are_kept_until_they_may_be_overwritten(self, server, setup, name):
        setup("--credentials", name, N1N_API_KEY=SECRET, N1N_BASE_URL="https://one.example.com")
        there = server.get(f"/block_types/slug/n1n-credentials/block_documents/name/{name}?include_secrets=true")
        data = {**there["data"], "price_factor": 0.5}
        body = {"data": data, "merge_existing_data": False}
        httpx.patch(f"{server.api_url}/block_documents/{there['id']}", json=body).raise_for_status()
        other = {"N1N_API_KEY": f"{SECRET}-rotated", "N1N_BASE_URL": "https://two.example.com"}

        code, lines = setup("--credentials", name, **other)
        assert code == 1
        assert "kept" in line_of(lines, name)
        assert "another api_key, base_url; --overwrite takes it" in line_of(lines, name)
        assert block(server, "n1n-credentials", name)["api_key"] == SECRET

        code, lines = setup("--credentials", name, "--overwrite", "--dry-run", **other)
        assert line_of(lines, name).startswith("would update")
        assert block(server, "n1n-credentials", name)["api_key"] == SECRET

        code, lines = setup("--credentials", name, "--overwrite", **other)
        assert (code, line_of(lines, name)[:7]) == (0, "updated")
        data = block(server, "n1n-credentials", name)
        assert (data["api_key"], data["base_url"]) == (f"{SECRET}-rotated", "https://two.example.com")
        assert data["price_factor"] == 0.5  # what the environment does not say stays

    def test_a_value_that_cannot_be(self, setup, name):
        code, lines = setup("--location", name, N1N_S3_BUCKET="s3://pictures/summer")
        assert code == 1
        assert "write bucket='pictures' and prefix='summer'" in line_of(lines, name)

    def test_a_location_from_a_saved_bucket_with_its_secret(self, server, setup, name):
        make = (
            "from prefect_aws import AwsCredentials, S3Bucket; import sys; "
            f"c = AwsCredentials(aws_access_key_id='AKIA', aws_secret_access_key='{SECRET}', region_name='eu-west-1'); "
            "c.save(sys.argv[1]); "
            "S3Bucket(bucket_name='pictures', bucket_folder='summer', credentials=c).save(sys.argv[1])"
        )
        server.run("python", "-c", make, name)
        before = everything_on(server)
        argv = ("--location", name, "--location-from", f"s3-bucket/{name}")
        assert setup(*argv, "--dry-run")[0] == 0
        assert everything_on(server)["blocks"] == before["blocks"]
        code, lines = setup(*argv)
        assert (code, line_of(lines, "s3-image-location/")[:7]) == (0, "created")
        data = block(server, "s3-image-location", name)
        assert (data["bucket"], data["prefix"], data["region_name"]) == ("pictures", "summer", "eu-west-1")
        assert data["aws_secret_access_key"] == SECRET
        assert line_of(setup(*argv)[1], "s3-image-location/")[:9] == "unchanged"

        argv = ("--location", f"{name}-2", "--location-from", f"aws-credentials/{name}")
        code, lines = setup(*argv)
        assert code == 1
        assert "set N1N_S3_BUCKET" in line_of(lines, f"{name}-2")
        assert setup(*argv, N1N_S3_BUCKET="others")[0] == 0
        assert block(server, "s3-image-location", f"{name}-2")["bucket"] == "others"

    def test_a_misspelt_source_names_what_there_is(self, server, setup, name):
        make = "from prefect_aws import AwsCredentials; import sys; AwsCredentials().save(sys.argv[1])"
        server.run("python", "-c", make, name)
        code, lines = setup("--location", name, "--location-from", f"aws-credentials/{name}x")
        assert code == 1
        assert f"There is no block aws-credentials/{name}x. Saved of this type:" in line_of(lines, "There is no")
        assert name in line_of(lines, "There is no").partition("Saved")[2]


class TestDeployments:
    def test_a_changed_file_updates_what_it_changes(self, server, setup, name, project):
        argv = ("--work-pool", name, "--deploy", str(project))
        assert line_of(setup(*argv)[1], "deployment") == f"created         deployment small/{name}"
        project.write_text(project.read_text().replace("[n1n]", "[n1n, nightly]"))
        assert f"updated         deployment small/{name}" in setup(*argv)[1]
        assert server.get(f"/deployments/name/small/{name}")["tags"] == ["n1n", "nightly"]

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (None, "cannot be read (No such file or directory)"),
            ("deployments: [", "is no YAML"),
            ("name: small", "has no list of named deployments"),
            (
                "deployments:\n  - name: x\n    entrypoint: nowhere.py:flow\n    work_pool: {name: p}",
                "could not deploy",
            ),
            (
                "build:\n- n1n_prefect.deployments.saved_blocks: {credentials: n1n-credentials/nobody-s}\n"
                "deployments:\n- {name: x, entrypoint: flow.py:small, work_pool: {name: p}}",
                "There is no block n1n-credentials/nobody-s",
            ),
        ],
    )
    def test_a_file_that_is_none(self, setup, tmp_path, content, said):
        (tmp_path / "flow.py").write_text(FLOW)  # Prefect looks for it and for the pool before it builds
        file = tmp_path / "prefect.yaml"
        if content is not None:
            file.write_text(content)
        code, lines = setup("--work-pool", "p", "--deploy", str(file))
        assert code == 1
        assert said in line_of(lines, "deployments of")
        assert str(file) in line_of(lines, "deployments of")


class TestAutomations:
    NAME = "n1n: budget reached"

    def put(self, server, **changes):
        there = automation(server, self.NAME)
        kept = {key: there[key] for key in ("name", "description", "enabled", "tags", "trigger", "actions")}
        reply = httpx.put(f"{server.api_url}/automations/{there['id']}", json={**kept, **changes})
        reply.raise_for_status()

    @pytest.mark.usefixtures("without_automations")
    def test_who_is_not_told_is_said(self, setup):
        code, lines = setup("--automations")
        assert code == 0
        assert "it would only notify, and there is no --notify" in line_of(lines, "quota or key")
        assert "run this again with --notify TYPE/NAME" in lines[-1]

    def test_a_disabled_one_stays_so_also_when_ours_changed(self, server, setup):
        setup("--automations")
        there = automation(server, self.NAME)
        httpx.patch(f"{server.api_url}/automations/{there['id']}", json={"enabled": False}).raise_for_status()
        lines = setup("--automations")[1]
        assert line_of(lines, self.NAME).startswith("unchanged")
        assert "it is disabled, and stays so" in line_of(lines, self.NAME)
        # As a version of ours would have left it that said something else.
        assert setup("--automations", "--silent-after", "700")[0] == 0
        lines = setup("--automations")[1]
        assert line_of(lines, "silent run").startswith("updated")
        assert not automation(server, self.NAME)["enabled"]
        self.put(server, enabled=True)

    def test_what_a_person_made_of_it_is_left(self, server, setup):
        setup("--automations")
        self.put(server, description="Ours now.")
        code, lines = setup("--automations")
        assert code == 0
        assert "it was changed by hand, and is left so" in line_of(lines, self.NAME)
        assert automation(server, self.NAME)["description"] == "Ours now."
        assert line_of(setup("--automations", "--overwrite")[1], self.NAME).startswith("updated")
        assert automation(server, self.NAME)["description"].startswith("Pauses the deployment")

    @pytest.mark.usefixtures("without_automations")
    def test_a_notification_that_was_given_once_stays(self, server, setup, name):
        make = (
            "from prefect.blocks.notifications import CustomWebhookNotificationBlock as W; import sys; "
            "W(name='t', url='http://127.0.0.1:9/').save(sys.argv[1])"
        )
        server.run("python", "-c", make, name)
        code, lines = setup("--automations", "--notify", f"custom-webhook/{name}")
        assert code == 0
        assert line_of(lines, "quota or key").startswith("created")
        actions = automation(server, self.NAME)["actions"]
        assert [action["type"] for action in actions] == ["pause-deployment", "send-notification"]
        code, lines = setup("--automations")
        assert did(lines) == {"unchanged"}
        assert len(automation(server, self.NAME)["actions"]) == 2

    def test_a_misspelt_notification_changes_nothing(self, server, setup):
        before = everything_on(server)
        code, lines = setup("--automations", "--notify", "slack-webhook/team")
        assert code == 1
        assert "There is no block slack-webhook/team. Saved of this type: none" in line_of(lines, "slack-webhook")
        assert everything_on(server) == before


class TestCalledWrongly:
    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["--concurrency-limit", "n1n"], "'n1n' is not NAME=SLOTS"),
            (["--concurrency-limit", "n1n=0"], "with 1 to 10000 slots"),
            (["--concurrency-limit", "n1n=\u0663"], "is not NAME=SLOTS"),
            (["--credentials", "My Key"], "'My Key' is no block's name"),
            (["--notify", "team"], "give TYPE/NAME"),
            (["--silent-after", "5"], "give whole seconds, 10 to 86400"),
            (["--silent-after", "nan"], "is no time"),
        ],
    )
    def test_is_two(self, argv, said, capsys):
        assert main(["setup", *argv]) == 2
        assert said in capsys.readouterr().err


class TestWithoutAServer:
    def test_no_address(self, setup):
        code, lines = setup(url="")
        assert code == 1
        assert "PREFECT_API_URL is not set" in lines[-1]
        assert "prefect server start" in lines[-1]

    def test_nothing_listens_there(self, setup):
        code, lines = setup(url="http://someone:hush@127.0.0.1:9/api")
        assert code == 1
        assert "No Prefect server answers at http://127.0.0.1:9/api" in lines[-1]
        assert "hush" not in "".join(lines)
