"""Makes the deployments of a `prefect.yaml` by Prefect's own command, and says which changed."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from n1n_prefect.cli.changes import Change, Workspace
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.masking import without_secrets

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

_PAGE = 200
_ERROR = re.compile(r"n1n_prefect\.errors\.\w+: ")  # the last line of a traceback
_WHAT_IT_SAYS = (
    "entrypoint", "path", "parameters", "tags", "description", "work_pool_name", "work_queue_name", "job_variables",
    "pull_steps", "global_concurrency_limit", "concurrency_options", "enforce_parameter_schema",
    "parameter_openapi_schema",
)  # fmt: skip


def deploy(workspace: Workspace, file: Path) -> Iterator[Change]:
    """Makes all deployments of a file.

    Raises:
        InvalidRequestError: There is no such file, it is no prefect.yaml, or Prefect could not deploy it.
    """
    names = _names_in(file)
    before = _on_server(workspace.client)
    if workspace.is_dry_run:
        there = {name.rpartition("/")[2] for name in before}
        for name in names:
            is_there = name in there
            note = "if it changed; only Prefect's own command can tell" if is_there else ""
            yield Change(f"deployment {name}", "updated" if is_there else "created", note)
        return
    _run(file)
    for name, now in _on_server(workspace.client).items():
        if now != before.get(name):
            yield Change(f"deployment {name}", "updated" if name in before else "created")
        elif name.rpartition("/")[2] in names:
            yield Change(f"deployment {name}", "unchanged")


def _names_in(file: Path) -> list[str]:
    import yaml

    try:
        content: Any = yaml.safe_load(file.read_text("utf-8"))
    except OSError as exc:
        raise InvalidRequestError(
            f"{str(file)!r} cannot be read ({exc.strerror}). Give the file with your deployments, --deploy FILE; "
            "`prefect init` makes one, and the package's repository has one for its example flows."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise InvalidRequestError(f"{str(file)!r} is no YAML: {str(exc)[:200]}") from None
    deployments = content.get("deployments") if isinstance(content, dict) else None
    if not isinstance(deployments, list) or not all(
        isinstance(each, dict) and each.get("name") for each in deployments
    ):
        raise InvalidRequestError(f"{str(file)!r} has no list of named deployments, as a prefect.yaml has.")
    return [str(each["name"]) for each in deployments]


def _run(file: Path) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", file.name]
    done = subprocess.run(  # noqa: S603 - Prefect's own command
        command, cwd=file.resolve().parent, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "PREFECT_CLI_WRAP_LINES": "false", "PREFECT_CLI_COLORS": "false"},
    )  # fmt: skip
    if done.returncode:
        why = _why(f"{done.stdout}\n{done.stderr}")
        raise InvalidRequestError(f"Prefect could not deploy {str(file)!r}: {why}")


def _why(said: str) -> str:
    """What an error of a build step says, below which Prefect shows its own; else the last three lines."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    ours = next((line for line in reversed(lines) if _ERROR.match(line)), "")
    return without_secrets(_ERROR.sub("", ours) or " ".join(lines[-3:]))[:600]


def _on_server(client: "SyncPrefectClient") -> dict[str, Any]:
    """What each deployment says, by flow and name."""
    found: list[DeploymentResponse] = []
    while len(page := client.read_deployments(limit=_PAGE, offset=len(found))) == _PAGE:
        found.extend(page)
    found.extend(page)
    flows = {flow_id: client.read_flow(flow_id).name for flow_id in {each.flow_id for each in found}}
    return {f"{flows[each.flow_id]}/{each.name}": _said_by(each) for each in found}


def _said_by(deployment: "DeploymentResponse") -> dict[str, Any]:
    said = deployment.model_dump(mode="json", include={*_WHAT_IT_SAYS})
    # On the first deployment Prefect writes None as a word.
    said["description"] = None if said["description"] in ("None", "") else said["description"]
    limit: Any = said.get("global_concurrency_limit")
    said["global_concurrency_limit"] = limit["limit"] if limit else None
    schedules = deployment.model_dump(mode="json")["schedules"]
    said["schedules"] = [{name: each[name] for name in ("schedule", "active", "parameters")} for each in schedules]
    return said
