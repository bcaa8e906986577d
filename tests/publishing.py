"""The example flow with a person in it, as a process of its own: run, or served as a deployment."""

import sys

from n1n_prefect import N1nCredentials, S3Location
from tests.test_flows import ROOT, flow_in

FLOW = flow_in(ROOT / "flows/approve_then_publish.py")


def main(action: str, name: str, wait: str = "pause") -> None:
    """Runs the flow under a name with saved blocks of that name, or serves it."""
    if action == "serve":
        FLOW.serve(name=name)
        return
    blocks = (N1nCredentials.load(name), S3Location.load(f"{name}-pending"), S3Location.load(f"{name}-published"))
    FLOW.with_options(flow_run_name=name)("a red fox", *blocks, wait=wait)


if __name__ == "__main__":
    main(*sys.argv[1:])
