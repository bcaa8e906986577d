"""Every example flow as a deployment without a work pool: this process waits for runs and starts them.

The parameters refer to saved blocks, so that no secret is in a deployment. Ctrl-C ends it, and
pauses the deployments until they are served again.
"""

import argparse
from typing import Any

from approve_then_publish import approve_then_publish
from batch_to_s3 import batch_to_s3
from edit_to_s3 import edit_to_s3
from generate_to_s3 import generate_to_s3
from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.events import DeploymentEventTrigger
from prefect.schedules import Cron

from n1n_prefect.deployments import saved_blocks


def serve_all(blocks: dict[str, Any], limit: int) -> None:
    """Registers the deployments, each named `served`, and waits for their runs.

    Args:
        blocks: References for `credentials` and `destination`.
        limit: How many runs there are at once.
    """
    common: dict[str, Any] = {
        "tags": ["n1n", "images"],
        "concurrency_limit": ConcurrencyLimitConfig(limit=2, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
    }
    generate = generate_to_s3.to_deployment(  # pyright: ignore[reportFunctionMemberAccess] - Prefect's types, see pyproject
        "served",
        description="Draws one image for each prompt, checks it and puts it into S3.",
        parameters={**blocks, "prompts": ["A market stall full of oranges in morning light"]},
        # An example, off until you switch it on in the UI: each run costs an image.
        schedule=Cron("0 6 * * 1", timezone="Europe/Berlin", active=False, slug="monday-morning"),
        **common,
    )
    edit = edit_to_s3.to_deployment(
        "served",
        description="Edits an image; an event `image.received` with its address in `payload.image` starts it.",
        parameters={**blocks, "instruction": "Put the product on a plain white background"},
        triggers=[
            DeploymentEventTrigger(
                name="edit-received-images",
                expect={"image.received"},
                parameters={"images": ["{{ event.payload.image }}"]},
            )
        ],
        **common,
    )
    batch = batch_to_s3.to_deployment(  # pyright: ignore[reportFunctionMemberAccess]
        "served",
        description="Draws or edits an image for each row of a manifest, and writes a table of what came of each.",
        parameters=blocks,
        **common,
    )
    approve = approve_then_publish.to_deployment(  # pyright: ignore[reportFunctionMemberAccess]
        "served",
        description="Draws several images for one prompt, and publishes those that a person approves.",
        parameters={"credentials": blocks["credentials"], "published": blocks["destination"], "wait": "suspend"},
        # No concurrency limit: Prefect takes its slot from a run that waits, and then ends the process.
        tags=common["tags"],
    )
    serve(generate, edit, batch, approve, limit=limit)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--credentials", default="default", help="name of an n1n Credentials block")
    parser.add_argument("--destination", default="default", help="name of an S3 Image Location block")
    parser.add_argument("--limit", type=int, default=4, help="how many runs at once")
    given = parser.parse_args()
    serve_all(
        saved_blocks(
            credentials=f"n1n-credentials/{given.credentials}", destination=f"s3-image-location/{given.destination}"
        ),
        given.limit,
    )
