"""Images for a list of prompts, checked and put into S3: generate → validate → upload.

Three task runs an image, so that each step has its own retries, log and place in the run's
graph. One refused prompt hides nothing: the contact sheet shows every item with its reason.
"""

import argparse
from typing import Annotated, Literal

from prefect import flow, unmapped
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from n1n_prefect import (
    ImageOutcome,
    N1nCredentials,
    S3Location,
    create_contact_sheet_artifact,
    gather_outcomes,
    generate_image,
    upload_image,
    validate_image,
)
from n1n_prefect.catalog import AspectRatio, ImageModel, ImageSize


@flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
def generate_to_s3(
    prompts: Annotated[list[str], Field(min_length=1, description="What to draw: one image for each prompt.")],
    credentials: Annotated[N1nCredentials, Field(description="Who pays.")],
    destination: Annotated[S3Location, Field(description="Where the images go.")],
    model: Annotated[ImageModel, Field(description="The image model.")] = "gemini-2.5-flash-image",
    aspect_ratio: Annotated[AspectRatio, Field(description="Width to height.")] = "1:1",
    image_size: Annotated[
        ImageSize | Literal["default"], Field(description="Size tier; 'default' for models that have none.")
    ] = "default",
) -> list[ImageOutcome]:
    """Draw one image for each prompt, check its pixels, and put it into S3."""
    images = generate_image.map(
        prompts,
        credentials=unmapped(credentials),
        model=model,
        aspect_ratio=aspect_ratio,
        image_size=None if image_size == "default" else image_size,
    )
    uploads = upload_image.map(validate_image.map(images), destination=unmapped(destination))
    outcomes = gather_outcomes(uploads)
    create_contact_sheet_artifact(outcomes, key="generated-images", title="Generated images")
    if not any(outcome.ok for outcome in outcomes):
        raise RuntimeError(f"No image arrived. The first reason: {outcomes[0].reason}")
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="+", help="what to draw, one image for each")
    parser.add_argument("--credentials", default="default", help="name of an n1n Credentials block")
    parser.add_argument("--destination", default="default", help="name of an S3 Image Location block")
    parser.add_argument("--aspect-ratio", default="1:1", help="width to height, such as 16:9")
    given = parser.parse_args()
    for outcome in generate_to_s3(
        given.prompts,
        N1nCredentials.load(given.credentials),
        S3Location.load(given.destination),
        aspect_ratio=given.aspect_ratio,
    ):
        print(outcome.status, outcome.uploaded.uri if outcome.uploaded else outcome.reason)
