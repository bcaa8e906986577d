"""A flow as its users write them, run in a process of its own, to be killed and resumed."""

import sys

from prefect import flow, unmapped
from prefect.task_runners import ThreadPoolTaskRunner

from n1n_prefect import N1nCredentials, Spending, generate_image


@flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
def draw(prompts: list[str], credentials: N1nCredentials) -> int:
    """Draws an image for each prompt and gives their number."""
    given = {"credentials": unmapped(credentials), "model": "gemini-3.1-flash-image", "image_size": "512"}
    return len(generate_image.map(prompts, spending=unmapped(Spending("fail")), **given).result())


@flow
async def draw_one(prompt: str, credentials: N1nCredentials) -> str:
    """The same for a single image, in a flow of coroutines."""
    from n1n_prefect import agenerate_image

    return (await agenerate_image(prompt, credentials=credentials, image_size=None)).sha256


@flow
def whole(prompts: list[str], credentials: N1nCredentials) -> int:
    """A flow of flows."""
    return draw(prompts, credentials)


def main(action: str, name: str, *prompts: str) -> None:
    """Runs `draw` under a name with the saved block `resumable`, or serves it."""
    if action == "serve":
        draw.serve(name=name)
    else:
        draw.with_options(flow_run_name=name)(list(prompts), N1nCredentials.load("resumable"))


if __name__ == "__main__":
    main(*sys.argv[1:])
