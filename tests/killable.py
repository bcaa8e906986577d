"""A flow that is killed in the middle: run as a process of its own, and again in the test's.

The process stops by itself where a PNG should be staged; the other pictures are JPEGs.
"""

import asyncio
import sys
import time
import uuid
from pathlib import Path

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from n1n_prefect import GeneratedImage, N1nCredentials, Spending, agenerate_image, pools, staging

SMALL = {"model": "gemini-3.1-flash-image", "image_size": "512"}
CAREFUL = Spending(on_unknown_outcome="fail")


@flow
async def draw_five(base_url: str) -> dict[str, GeneratedImage | BaseException]:
    """One image of each fate; errors in the place of images."""
    alone = N1nCredentials(api_key="sk-local-gateway", base_url=base_url)
    two = N1nCredentials(api_key="sk-local-gateway", base_url=base_url, max_in_flight=2)
    jobs = {"answered": asyncio.create_task(agenerate_image("answered", credentials=alone, **SMALL))}
    await jobs["answered"]
    jobs["read"] = asyncio.create_task(agenerate_image("read", credentials=alone, spending=CAREFUL))
    jobs["lost"] = asyncio.create_task(agenerate_image("lost", credentials=two, **SMALL))
    jobs["lost, careful"] = asyncio.create_task(
        agenerate_image("lost, careful", credentials=two, spending=CAREFUL, **SMALL)
    )
    while pools.pace_of(two)._bound._busy < 2 and not jobs["lost"].done():  # noqa: ASYNC110 - the bound has no event
        await asyncio.sleep(0.02)
    jobs["waiting"] = asyncio.create_task(agenerate_image("waiting", credentials=two, spending=CAREFUL, **SMALL))
    ended = await asyncio.gather(*jobs.values(), return_exceptions=True)
    return dict(zip(jobs, ended, strict=True))


def main(flow_run_id: str, reached: str) -> None:
    """Runs the flow up to the point where nothing goes on."""
    write = staging.LocalStorage.write

    def stop_at_png(self: staging.LocalStorage, key: str, data: bytes) -> None:
        if key.endswith(".png"):
            Path(reached).touch()
            time.sleep(600)
        write(self, key, data)

    staging.LocalStorage.write = stop_at_png
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(uuid.UUID(flow_run_id))
    asyncio.run(run_flow(draw_five, flow_run=flow_run))


if __name__ == "__main__":
    main(*sys.argv[1:])
