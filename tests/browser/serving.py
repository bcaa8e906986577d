"""Serves the example flows until it is stopped, as a team without a work pool does."""

from pathlib import Path

from prefect import flow, serve

_FLOWS = Path(__file__).parents[2] / "flows"
_NAMES = ["generate_to_s3", "approve_then_publish", "batch_to_s3"]


def _deployment(name: str):
    source = flow.from_source(str(_FLOWS), entrypoint=f"{name}.py:{name}")
    return source.to_deployment("shop", description="Product pictures for the shop.", tags=["shop", "products"])


if __name__ == "__main__":
    serve(*map(_deployment, _NAMES), limit=8)
