"""Images for a list of prompts, checked and put into S3: generate → validate → upload.

Three task runs an image, so that each step has its own retries, log and place in the run's
graph. One refused prompt hides nothing: the contact sheet shows every item with its reason.
"""

import argparse
from typing import Annotated, Literal

from prefect import flow, unmapped
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

import n1n_prefect as n1n
from n1n_prefect import ImageOutcome, N1nCredentials, S3Location
from n1n_prefect.catalog import AspectRatio, ImageModel, ImageSize


@flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
def generate_to_s3(
    prompts: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=500)],
    credentials: N1nCredentials,
    destination: S3Location,
    model: ImageModel = "gemini-2.5-flash-image",
    aspect_ratio: AspectRatio = "1:1",
    image_size: Literal["default", ImageSize] = "default",
) -> list[ImageOutcome]:
    """Draw one image for each prompt, check its pixels, and put it into S3.

    Args:
        prompts: What to draw, one image for each prompt; at most 500.
        credentials: The n1n Credentials block whose key pays for the images.
        destination: The S3 Image Location block where the images go.
        model: The image model. They differ in price, ratios and sizes.
        aspect_ratio: Width to height. Only the 3.1 and 2.1 models have 1:4, 4:1, 1:8 and 8:1.
        image_size: Size tier, from 512 to 4K pixels; keep "default" for gemini-2.5-flash-image, which has none.
    """
    images = n1n.generate_image.map(
        prompts,
        credentials=unmapped(credentials),
        model=model,
        aspect_ratio=aspect_ratio,
        image_size=None if image_size == "default" else image_size,
    )
    uploads = n1n.upload_image.map(n1n.validate_image.map(images), destination=unmapped(destination))
    n1n.create_contact_sheet_artifact(uploads, key="generated-images", title="Generated images")
    return n1n.final_state(n1n.gather_outcomes(uploads))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
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
