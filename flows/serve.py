"""Every example flow as a deployment without a work pool: this process waits for runs and starts them.

    python flows/serve.py

The blocks `default` have to be saved (see `blocks/`). The parameters refer to them, so that no
secret is in a deployment; a run reads them when it starts. It ends at Ctrl-C, and pauses its
schedules then.
"""

from edit_to_s3 import edit_to_s3
from generate_to_s3 import generate_to_s3
from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.events import DeploymentEventTrigger
from prefect.schedules import Cron

from n1n_prefect.deployments import saved_blocks

TAGS = ["n1n", "images"]
TWO_AT_ONCE = ConcurrencyLimitConfig(limit=2, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
PLAIN_WHITE = "Put the product on a plain white background and keep its proportions"


def main() -> None:
    """Registers the deployments and waits for their runs, at most four at once."""
    blocks = saved_blocks(credentials="n1n-credentials/default", destination="s3-image-location/default")
    generate = generate_to_s3.to_deployment(  # pyright: ignore[reportFunctionMemberAccess] - Prefect's typing of task_runner
        "served",
        description="Draws one image for each prompt, checks it and puts it into S3.",
        tags=TAGS,
        parameters={**blocks, "prompts": ["A market stall full of oranges in morning light"]},
        concurrency_limit=TWO_AT_ONCE,
        # An example, off until you switch it on in the UI: each run costs an image.
        schedule=Cron("0 6 * * 1", timezone="Europe/Berlin", active=False, slug="monday-morning"),
    )
    edit = edit_to_s3.to_deployment(
        "served",
        description="Edits images; an event `image.received` with `payload.image` starts it.",
        tags=TAGS,
        parameters={**blocks, "instruction": PLAIN_WHITE},
        concurrency_limit=TWO_AT_ONCE,
        triggers=[
            DeploymentEventTrigger(
                name="edit-received-images",
                expect={"image.received"},
                parameters={"images": ["{{ event.payload.image }}"]},
            )
        ],
    )
    serve(generate, edit, limit=4)


if __name__ == "__main__":
    main()
