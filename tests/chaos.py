"""A flow of many images whose process is killed again and again, and goes on under the same flow run.

`python -m tests.chaos FLOW_RUN_ID AT_ONCE [PROMPT STEP]` runs it, and kills itself before the paid call of a
prompt takes a step, such as `Write 2` for the second it writes; `end` is behind the last one, before Prefect
keeps the result.
"""

import json
import os
import signal
import sys
import uuid
from collections import Counter
from typing import Any

from prefect import flow, unmapped
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.task_runners import ThreadPoolTaskRunner

from n1n_prefect import GeneratedImage, HintedDelays, N1nCredentials, Spending, execution, generate_image

SMALL: dict[str, Any] = {"model": "gemini-3.1-flash-image", "image_size": "512"}


@flow
def draw_all(base_url: str, prompts: list[str], concurrency_limit: str = "") -> list[GeneratedImage]:
    """One image for each prompt."""
    credentials = N1nCredentials(
        api_key="sk-local-gateway",  # pyright: ignore[reportArgumentType]
        base_url=base_url,
        concurrency_limit=concurrency_limit,
    )
    quick = generate_image.with_options(retry_delay_seconds=HintedDelays([0.05]))
    patient = Spending(unknown_retries=9)
    return quick.map(prompts, credentials=unmapped(credentials), spending=unmapped(patient), **SMALL).result()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(prompt: str, step: str) -> None:
    """Arranges for the process to end at a step of a prompt's paid call."""
    do, noted, seen = execution.Hands.do, execution._noted, Counter[str]()

    def counted(self: execution.Hands, what: Any) -> Any:
        if self.job.call.loaded.request.prompt == prompt:
            kind = type(what).__name__
            seen[kind] += 1
            if step == f"{kind} {seen[kind]}":
                die()
        return do(self, what)

    def ended(job: execution.Job, image: GeneratedImage, *, joined: bool) -> GeneratedImage:
        image = noted(job, image, joined=joined)
        if step == "end" and job.call.loaded.request.prompt == prompt:
            die()
        return image

    execution.Hands.do, execution._noted = counted, ended  # pyright: ignore[reportAttributeAccessIssue]


def main(flow_run_id: str, at_once: str, *point: str) -> None:
    """Runs the flow and prints what came of it."""
    if point:
        die_at(*point)
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(uuid.UUID(flow_run_id))
    runner = ThreadPoolTaskRunner(max_workers=int(at_once))
    images: Any = run_flow(draw_all.with_options(task_runner=runner), flow_run=flow_run)
    print(json.dumps([[image.prompt_excerpt, image.sha256, image.possible_duplicates] for image in images]))


if __name__ == "__main__":
    main(*sys.argv[1:])
