"""`n1n-prefect doctor`: bad set-ups as a new user has them, and a good one."""

import json
import socket
import threading
import uuid
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from prefect.events import AutomationCore
from prefect.filesystems import LocalFileSystem
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK, temporary_settings

from n1n_prefect import N1nCredentials
from n1n_prefect.cli import main
from n1n_prefect.cli.automations import fingerprint
from n1n_prefect.cli.findings import Check, findings, is_well
from tests.prefect_server import wait_for
from tests.s3_servers import Answer, free_port, new_bucket

pytestmark = pytest.mark.prefect

SECRET = "sk-never-to-be-printed"
ONLY_AFTER_A_SERVER = {
    "block types", "result storage", "work pool", "deployments", "automations", "credentials", "location",
}  # fmt: skip


class Findings(dict):
    """What `doctor` said: a verdict and words for each check, by its name."""

    code: int

    def verdict(self, check):
        return self[check][0]

    def said(self, check):
        return self[check][1]


@pytest.fixture
def doctor(setup_server, capsys):
    def doctor(*argv, url=setup_server.api_url, storage=None):
        at = {PREFECT_API_URL: url, PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK: storage}
        given = {name: value for name, value in at.items() if value}
        with temporary_settings(given, restore_defaults={*at} - {*given}):
            code = main(["doctor", *argv])
        said = capsys.readouterr().out
        assert SECRET not in said
        rows = [(line[9:25].strip(), (line[:8].strip(), line[26:])) for line in said.splitlines()]
        found = Findings(rows)
        assert len(found) == len(rows)  # a line for each check
        found.code = code
        assert code == (0 if {"wrong", "skipped"}.isdisjoint(verdict for verdict, _ in found.values()) else 1)
        return found

    return doctor


@pytest.fixture
def at_server(setup_server):
    with temporary_settings({PREFECT_API_URL: setup_server.api_url}):
        yield setup_server


@pytest.fixture
def name():
    return f"d{uuid.uuid4().hex[:10]}"


@pytest.fixture
def save(at_server, name):
    """Saves a block under this test's name."""

    def save(block):
        block.save(name)
        return block

    return save


@pytest.fixture
def credentials(save, n1n_gateway_factory):
    """Saves credentials for a gateway with these options."""

    def credentials(key=SECRET, concurrency_limit="", **options):
        gateway = n1n_gateway_factory(api_keys=[SECRET], **options)
        save(N1nCredentials(api_key=key, base_url=gateway.base_url, concurrency_limit=concurrency_limit))
        return gateway

    return credentials


@pytest.fixture
def pool(at_server, name):
    """Makes a work pool of this test's name."""

    def pool(kind="process", **fields):
        return at_server.post("/work_pools/", name=name, type=kind, **fields)

    return pool


# ── a good one ───────────────────────────────────────────────────────────────


class TestWell:
    def test_all_is_right_and_nothing_is_spent_or_left(
        self, doctor, at_server, credentials, save, pool, s3_location, moto_client, name, capsys
    ):
        gateway = credentials(concurrency_limit=name)
        save(s3_location)
        pool()
        at_server.run("n1n-prefect", "setup", "--concurrency-limit", f"{name}=3")
        argv = ("--credentials", name, "--location", name, "--work-pool", name)
        with at_server.running("prefect", "worker", "start", "--pool", name, log=name):
            wait_for(lambda: at_server.post(f"/work_pools/{name}/workers/filter"), "the worker")
            found = doctor(*argv)
            assert main_json(at_server, capsys, *argv)["ok"]
        # moto keeps bytes that have another SHA-256. What others left on this server is another test's.
        wanting = {check for check, (verdict, _) in found.items() if verdict != "ok"}
        assert wanting - {"deployments", "automations"} == {"checksums"}
        assert found.verdict("checksums") == "warning"
        assert found.code == 0
        assert f"{at_server.api_url}, Prefect 3." in found.said("server")
        assert "gemini-2.5-flash-image" in found.said("key")
        assert "the key has no limit of its own" in found.said("balance")
        assert f"{name!r}: 0 of 3 slots taken" in found.said("concurrency")
        assert "1 online" in found.said("work pool")
        assert "If-None-Match is obeyed" in found.said("conditional puts")
        assert gateway.ledger.calls == []
        assert "Contents" not in moto_client.list_objects_v2(Bucket=s3_location.bucket)


def main_json(server, capsys, *argv):
    with temporary_settings({PREFECT_API_URL: server.api_url}):
        main(["doctor", *argv, "--json"])
    return json.loads(capsys.readouterr().out)


# ── the server ───────────────────────────────────────────────────────────────


@contextmanager
def answering(status, body, content_type="application/json"):
    """The API address of a program that answers everything alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name http.server looks for

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


class TestServer:
    def test_none(self, doctor):
        url = f"http://127.0.0.1:{free_port()}/api"
        found = doctor(url=url)
        assert found.verdict("server") == "wrong"
        assert f"No Prefect server answers at {url}" in found.said("server")
        assert "prefect server start" in found.said("server")
        assert {check for check, (verdict, _) in found.items() if verdict == "ok"} == {"packages", "settings"}
        assert all(found[check] == ("skipped", "it needs server") for check in ONLY_AFTER_A_SERVER)

    def test_no_address(self, doctor, monkeypatch):
        monkeypatch.setattr(SubprocessASGIServer, "start", lambda self: pytest.fail("a server was started for it"))
        assert "PREFECT_API_URL is not set" in doctor(url=None).said("server")

    def test_one_that_says_nothing_is_not_waited_for(self, doctor):
        with closing(socket.create_server(("127.0.0.1", 0))) as listening:
            found = doctor(url=f"http://127.0.0.1:{listening.getsockname()[1]}/api")
        assert "does not answer within 5 s" in found.said("server")

    def test_another_program_has_the_port(self, doctor):
        with answering(404, b"<h1>Not here</h1>", "text/html") as url:
            said = doctor(url=url).said("server")
        assert f"What answers at {url} is no Prefect API (HTTP 404)" in said
        assert "prefect server start --port 4201" in said

    @pytest.mark.parametrize("body", [b"<h1>Hello</h1>", b"{}", b"null", b'"hello"'])
    def test_another_program_that_answers_everything(self, doctor, body):
        with answering(200, body) as url:
            assert "is no Prefect API" in doctor(url=url).said("server")

    @pytest.mark.parametrize("status", [401, 403])
    def test_that_wants_a_login(self, doctor, status):
        with answering(status, b"{}") as url:
            assert f"wants another login (HTTP {status}). Set PREFECT_API_AUTH_STRING" in doctor(url=url).said("server")

    def test_of_another_major_version(self, doctor):
        with answering(200, b'"2.20.9"') as url:
            found = doctor(url=url)
        assert found.verdict("versions") == "wrong"
        assert "the server runs Prefect 2.20.9" in found.said("versions")
        assert "prefect>=2,<3" in found.said("versions")
        assert found["credentials"] == ("skipped", "it needs versions")

    def test_that_is_older(self, doctor):
        with answering(200, b'"3.1.0"') as url:
            found = doctor(url=url)
        assert found.verdict("versions") == "warning"
        assert "upgrade the server first" in found.said("versions")

    def test_that_does_not_know_our_blocks(self, doctor, at_server):
        known = at_server.get("/block_types/slug/s3-image-location")
        httpx.delete(f"{at_server.api_url}/block_types/{known['id']}").raise_for_status()
        found = doctor()
        assert found["block types"] == ("wrong", "the server does not know s3-image-location; run `n1n-prefect setup`")
        at_server.run("n1n-prefect", "setup")
        assert doctor().verdict("block types") == "ok"

    def test_a_misspelt_setting(self, doctor, monkeypatch):
        monkeypatch.setenv("PREFECT_INTEGRATIONS_N1N_MAX_USD_PER_RUM", "5")
        found = doctor()
        assert found.verdict("settings") == "wrong"
        assert "did you mean PREFECT_INTEGRATIONS_N1N_MAX_USD_PER_RUN?" in found.said("settings")
        assert found.verdict("server") == "ok"


# ── the key ──────────────────────────────────────────────────────────────────


class TestKey:
    def test_a_block_that_is_missing_or_misspelt(self, doctor, credentials, name):
        credentials()
        assert f"no block n1n-credentials/{name}x. Did you mean {name!r}?" in doctor("--credentials", f"{name}x").said(
            "credentials"
        )
        found = doctor("--credentials", "zzzzzzzz", "--location", "zzzzzzzz")
        assert f"Saved are: {name}" in found.said("credentials") or name in found.said("credentials")
        assert "There is no block s3-image-location/zzzzzzzz." in found.said("location")
        assert found["key"] == ("skipped", "it needs credentials")
        assert found["bucket"] == ("skipped", "it needs location")

    def test_that_is_not_accepted(self, doctor, credentials, name):
        credentials(key="sk-of-somebody-else")
        found = doctor("--credentials", name)
        assert found.verdict("key") == "wrong"
        assert f"does not accept the key of block {name!r}" in found.said("key")
        assert f"n1n-prefect setup --credentials {name} --overwrite" in found.said("key")
        assert "sk-of-somebody-else" not in found.said("key")

    def test_that_serves_no_image_model(self, doctor, credentials, name):
        credentials(models=["gpt-4o"])
        assert "none of its 1 models is an image model" in doctor("--credentials", name).said("key")

    def test_that_serves_another_than_the_default(self, doctor, credentials, name):
        credentials(models=["gemini-3-pro-image"])
        found = doctor("--credentials", name)
        assert found.verdict("key") == "warning"
        assert "not the default gemini-2.5-flash-image" in found.said("key")

    def test_a_gateway_that_is_not_there(self, doctor, save, name):
        save(N1nCredentials(api_key=SECRET, base_url=f"http://127.0.0.1:{free_port()}"))
        found = doctor("--credentials", name)
        assert found.verdict("key") == "wrong"
        assert "The gateway was not reached" in found.said("key")

    @pytest.mark.parametrize(
        ("usd", "verdict", "said"),
        [
            (20.0, "ok", "$20.00 left, $0.00 spent"),
            (0.5, "warning", "$0.50 left"),
            (0.0, "wrong", "$0.00 left, $0.00 spent: every call will be refused; top the account up"),
        ],
    )
    def test_what_is_left(self, doctor, credentials, name, usd, verdict, said):
        credentials(granted_usd=usd)
        found = doctor("--credentials", name)
        assert found.verdict("balance") == verdict
        assert said in found.said("balance")

    def test_a_limit_that_does_not_exist_or_is_off(self, doctor, credentials, at_server, name):
        credentials(concurrency_limit=name)
        found = doctor("--credentials", name)
        assert found.verdict("concurrency") == "wrong"
        assert "does not exist, so every call fails" in found.said("concurrency")
        assert f"`n1n-prefect setup --concurrency-limit {name}=8`" in found.said("concurrency")
        at_server.post("/v2/concurrency_limits/", name=name, limit=2, active=False)
        assert doctor("--credentials", name).verdict("concurrency") == "warning"


# ── the bucket ───────────────────────────────────────────────────────────────


class TestBucket:
    def test_that_is_missing(self, doctor, save, moto_server, name):
        save(moto_server.location("never-made"))
        found = doctor("--location", name)
        assert found.verdict("bucket") == "wrong"
        assert "never-made" in found.said("bucket")
        assert "NoSuchBucket" in found.said("bucket")
        assert found["checksums"] == ("skipped", "it needs bucket")

    def test_a_store_that_is_not_there(self, doctor, save, moto_server, name):
        save(moto_server.location("pictures", endpoint_url=f"http://127.0.0.1:{free_port()}"))
        assert "the endpoint could not be reached" in doctor("--location", name).said("bucket")

    def test_that_may_only_be_read(self, doctor, save, read_only_server, name):
        server, bucket = read_only_server
        save(server.location(bucket))
        found = doctor("--location", name)
        assert found.verdict("bucket") == "wrong"
        assert f"Could not write s3://{bucket}/" in found.said("bucket")

    def test_that_may_not_be_written_by_its_policy(self, doctor, save, scripted_store, name):
        save(scripted_store.server.location("pictures", conditional_put="always"))
        scripted_store.says(Answer(403, "AccessDenied", message="Access Denied"))
        found = doctor("--location", name)
        assert found.verdict("bucket") == "wrong"
        assert "s3:PutObject" in found.said("bucket") or "may not" in found.said("bucket")
        assert scripted_store.methods == ["PUT"]

    def test_that_may_not_be_removed_from(self, doctor, save, scripted_store, name):
        save(scripted_store.server.location("pictures", prefix="p", conditional_put="always", checksum="none"))
        body = b"n1n-prefect doctor was here, and removes this again.\n"
        denied = Answer(403, "AccessDenied")
        scripted_store.says(Answer(), Answer(body=body), denied, Answer(), Answer(412, "PreconditionFailed"), denied)
        found = doctor("--location", name)
        assert found.verdict("bucket") == "warning"
        assert "may not be removed from (AccessDenied); remove s3://pictures/p/n1n-doctor-" in found.said("bucket")
        assert scripted_store.methods == ["PUT", "GET", "DELETE", "PUT", "PUT", "DELETE"]
        assert found.verdict("checksums") == "warning"

    def test_that_verifies_checksums(self, doctor, save, scripted_store, name):
        save(scripted_store.server.location("pictures", conditional_put="always"))
        body = b"n1n-prefect doctor was here, and removes this again.\n"
        obeyed = (Answer(), Answer(412, "PreconditionFailed"), Answer(204))
        scripted_store.says(Answer(), Answer(body=body), Answer(204), *obeyed, Answer(400, "BadDigest"))
        found = doctor("--location", name)
        assert found["checksums"] == ("ok", "bytes with another sha256 than was sent are refused")
        assert found.verdict("conditional puts") == "ok"

    def test_a_wrong_secret(self, doctor, save, rclone_server, rclone_client, name):
        save(rclone_server.location(new_bucket(rclone_client), aws_secret_access_key=SECRET))
        found = doctor("--location", name)
        assert found.verdict("bucket") == "wrong"
        assert "SignatureDoesNotMatch" in found.said("bucket")

    def test_that_ignores_conditions(self, doctor, save, rclone_server, rclone_client, name):
        bucket = new_bucket(rclone_client)
        save(rclone_server.location(bucket, prefix="products"))
        found = doctor("--location", name)
        assert found["bucket"] == ("ok", f"{bucket!r} can be written, read and removed from")
        assert found.verdict("conditional puts") == "warning"
        assert "two writers at the same moment may both write" in found.said("conditional puts")
        assert "Contents" not in rclone_client.list_objects_v2(Bucket=bucket)

    @pytest.mark.parametrize(
        ("conditional", "verdict", "said"),
        [
            ("auto", "warning", "uploads look first"),
            ("always", "wrong", "so that no image is uploaded; set conditional_put to auto"),
        ],
    )
    @pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument")])
    def test_that_does_not_know_conditions(
        self, doctor, save, scripted_store, name, conditional, verdict, said, status, code
    ):
        save(scripted_store.server.location("pictures", conditional_put=conditional, checksum="none"))
        body = b"n1n-prefect doctor was here, and removes this again.\n"
        looked = [Answer(404)] if conditional == "auto" else []
        scripted_store.says(*looked, Answer(), Answer(body=body), Answer(204), Answer(status, code))
        found = doctor("--location", name)
        assert found.verdict("conditional puts") == verdict
        assert said in found.said("conditional puts")
        assert scripted_store.methods == ["HEAD"] * len(looked) + ["PUT", "GET", "DELETE", "PUT"]

    def test_that_is_sent_no_conditions_is_not_asked_about_them(self, doctor, save, scripted_store, name):
        save(scripted_store.server.location("pictures", conditional_put="never", checksum="none"))
        body = b"n1n-prefect doctor was here, and removes this again.\n"
        scripted_store.says(Answer(404), Answer(), Answer(body=body), Answer(204))
        found = doctor("--location", name)
        assert found.verdict("conditional puts") == "warning"
        assert "the block sends none and looks first" in found.said("conditional puts")
        assert scripted_store.methods == ["HEAD", "PUT", "GET", "DELETE"]

    def test_that_breaks_off_when_the_probe_is_removed(self, doctor, save, scripted_store, name):
        save(scripted_store.server.location("pictures", conditional_put="never", checksum="none"))
        scripted_store.says(Answer(404), Answer(), Answer(403, "AccessDenied"), *[Answer(says_nothing=True)] * 3)
        found = doctor("--location", name)
        assert found.verdict("bucket") == "wrong"
        assert "AccessDenied" in found.said("bucket")  # and not the removal's failure

    def test_that_keeps_versions_has_none_left(self, doctor, save, s3_location, moto_client, name):
        bucket = s3_location.bucket
        moto_client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        save(s3_location)
        assert doctor("--location", name).verdict("bucket") == "ok"
        listed = moto_client.list_object_versions(Bucket=bucket)
        assert "Versions" not in listed
        assert "DeleteMarkers" not in listed

    def test_that_ignores_conditions_and_is_trusted_to_obey(self, doctor, save, rclone_server, rclone_client, name):
        save(rclone_server.location(new_bucket(rclone_client), conditional_put="always"))
        found = doctor("--location", name)
        assert found.verdict("conditional puts") == "wrong"
        assert "set conditional_put to auto" in found.said("conditional puts")


# ── where results are, and who works ─────────────────────────────────────────


class TestResultStorage:
    def test_a_local_one_for_runs_that_share_no_disk(self, doctor, pool, name, monkeypatch):
        pool("kubernetes")
        found = doctor("--work-pool", name)
        assert found.verdict("result storage") == "warning"
        assert "Set PREFECT_RESULTS_DEFAULT_STORAGE_BLOCK" in found.said("result storage")
        monkeypatch.setenv("PREFECT_INTEGRATIONS_N1N_ON_UNSHARED_STORAGE", "fail")
        assert doctor("--work-pool", name).verdict("result storage") == "wrong"
        monkeypatch.setenv("PREFECT_INTEGRATIONS_N1N_ON_UNSHARED_STORAGE", "allow")
        assert doctor("--work-pool", name).verdict("result storage") == "ok"

    def test_a_bucket(self, doctor, save, pool, moto_server, moto_client, name):
        from prefect_aws import AwsClientParameters, AwsCredentials, S3Bucket

        keys = AwsCredentials(
            aws_access_key_id=moto_server.access_key,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            aws_client_parameters=AwsClientParameters(endpoint_url=moto_server.endpoint_url),
        )
        keys.save(name)
        save(S3Bucket(bucket_name=new_bucket(moto_client), credentials=keys))
        pool("kubernetes")
        found = doctor("--work-pool", name, storage=f"s3-bucket/{name}")
        assert found.verdict("result storage") == "ok", found
        assert "which workers share" in found.said("result storage")

    def test_a_block_that_is_missing(self, doctor, name):
        found = doctor(storage=f"local-file-system/{name}")
        assert found.verdict("result storage") == "wrong"
        assert name in found.said("result storage")

    def test_a_folder_of_a_block(self, doctor, save, pool, name, tmp_path):
        save(LocalFileSystem(basepath=str(tmp_path)))
        pool()
        found = doctor("--work-pool", name, storage=f"local-file-system/{name}")
        assert found.verdict("result storage") == "ok"
        assert str(tmp_path) in found.said("result storage")


class TestWorkPool:
    def test_that_is_missing(self, doctor, pool, name):
        pool()
        found = doctor("--work-pool", f"{name}x")
        assert found.verdict("work pool") == "wrong"
        assert f"there is no work pool '{name}x'; did you mean {name!r}?" in found.said("work pool")
        assert f"`n1n-prefect setup --work-pool {name}x`" in found.said("work pool")

    def test_without_a_worker(self, doctor, pool, name):
        pool()
        found = doctor("--work-pool", name)
        assert found.verdict("work pool") == "wrong"
        assert f"`prefect worker start --pool {name}`" in found.said("work pool")

    def test_that_is_paused(self, doctor, pool, name):
        pool(is_paused=True)
        assert f"`prefect work-pool resume {name}`" in doctor("--work-pool", name).said("work pool")


# ── the checks themselves ────────────────────────────────────────────────────


class TestDeployments:
    @pytest.fixture(autouse=True)
    def empty(self, at_server):
        for there in at_server.post("/deployments/filter"):
            httpx.delete(f"{at_server.api_url}/deployments/{there['id']}").raise_for_status()

    @pytest.fixture
    def deployment(self, at_server, pool, name):
        def deployment(**fields):
            flow = at_server.post("/flows/", name=name)
            fields = {"name": name, "flow_id": flow["id"], "tags": ["n1n"], **fields}
            return at_server.post("/deployments/", work_pool_name=pool()["name"], **fields)

        return deployment

    def test_none(self, doctor):
        assert doctor()["deployments"][0] == "ok"

    def test_that_nobody_serves(self, doctor, deployment, name):
        deployment()
        assert doctor()["deployments"] == ("warning", found := doctor().said("deployments"))
        assert found.startswith(f"{name!r} have neither a worker")

    def test_that_are_paused(self, doctor, deployment, name):
        deployment(paused=True)
        assert doctor()["deployments"] == (
            "warning",
            f"{name!r} are paused, so no schedule starts them; resume them in the UI",
        )

    def test_whose_block_is_deleted(self, doctor, deployment, name):
        deployment(parameters={"credentials": {"$ref": {"block_document_id": str(uuid.uuid4())}}, "other": [1, "two"]})
        verdict, said = doctor()["deployments"]
        assert verdict == "wrong"
        assert said.startswith(f"{name!r} name a block that is deleted")

    def test_of_others_are_not_looked_at(self, doctor, deployment):
        deployment(tags=[], paused=True)
        assert doctor()["deployments"][0] == "ok"


class TestAutomations:
    @pytest.fixture
    def ours(self, at_server):
        """The automations, freshly made, by their names."""
        for there in at_server.post("/automations/filter"):
            httpx.delete(f"{at_server.api_url}/automations/{there['id']}").raise_for_status()
        at_server.run("n1n-prefect", "setup", "--automations", "--silent-after", "700")
        return {there["name"]: there for there in at_server.post("/automations/filter")}

    def test_as_setup_makes_them(self, doctor, ours):
        verdict, said = doctor()["automations"]
        assert verdict == "ok"
        assert said.startswith(f"{len(ours)} of ours; nobody is told by 'n1n: image refused'")
        assert "--notify TYPE/NAME`" in said

    def test_that_are_missing_off_or_of_another_version(self, doctor, at_server, ours):
        goes_on, budget = ours["n1n: crashed run goes on"], ours["n1n: budget reached"]
        old = {name: value for name, value in goes_on.items() if name not in ("id", "created", "updated")}
        old["description"] = "As it once was."
        sample = AutomationCore.model_validate(old)
        old["tags"] = [f"n1n-setup-{fingerprint(sample)}"]
        httpx.put(f"{at_server.api_url}/automations/{goes_on['id']}", json=old).raise_for_status()
        assert doctor().said("automations").startswith("'n1n: crashed run goes on' are of another version")
        path = f"{at_server.api_url}/automations/{budget['id']}"
        httpx.patch(path, json={"enabled": False}).raise_for_status()
        assert doctor().said("automations").startswith("'n1n: budget reached' are switched off")
        httpx.delete(path).raise_for_status()
        assert doctor()["automations"] == (
            "warning",
            "'n1n: budget reached' are missing; `n1n-prefect setup --automations` makes them",
        )
        at_server.run("n1n-prefect", "setup", "--automations", "--silent-after", "700")
        assert doctor()["automations"][0] == "ok"

    def test_none(self, doctor, at_server, ours):
        for there in ours.values():
            httpx.delete(f"{at_server.api_url}/automations/{there['id']}").raise_for_status()
        assert doctor()["automations"][0] == "ok"


class TestFindings:
    def test_one_that_fails_hides_no_other(self):
        def breaks(subject):
            raise RuntimeError("two\nlines")

        checks = [
            Check("first", breaks),
            Check("needs it", lambda subject: ("ok", ""), ("first",)),
            Check("needs that", lambda subject: ("ok", ""), ("needs it",)),
            Check("stands alone", lambda subject: ("ok", subject)),
        ]
        found = list(findings(checks, "seen"))
        assert [each.line() for each in found] == [
            "wrong    first            two lines",
            "skipped  needs it         it needs first",
            "skipped  needs that       it needs needs it",
            "ok       stands alone     seen",
        ]
        assert not is_well(found)

    def test_a_warning_is_no_failure(self):
        assert is_well(findings([Check("warns", lambda subject: ("warning", "careful"))], None))
