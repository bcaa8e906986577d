"""The same edit made to many images, each checked and put into S3.

One task run an image, which ends in an outcome whatever happens to it; so it scales to
some hundreds of images, and the flow itself is short.
"""

import argparse
import asyncio
from pathlib import PurePosixPath
from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from n1n_prefect import (
    ImageOutcome,
    ImageRequest,
    N1nCredentials,
    S3Location,
    acreate_contact_sheet_artifact,
    aimage_to_s3,
)
from n1n_prefect.catalog import AspectRatio, ImageModel


@flow
async def edit_to_s3(
    images: Annotated[
        list[str],
        Field(min_length=1, description="What to edit: s3://bucket/key, https://…, or paths below the working folder."),
    ],
    instruction: Annotated[str, Field(min_length=1, description="What to change in each of them.")],
    credentials: Annotated[N1nCredentials, Field(description="Who pays.")],
    destination: Annotated[S3Location, Field(description="Where the results go, and s3:// images come from.")],
    model: Annotated[ImageModel, Field(description="The image model.")] = "gemini-2.5-flash-image",
    aspect_ratio: Annotated[
        AspectRatio | Literal["as input"], Field(description="Width to height of the results.")
    ] = "as input",
) -> list[ImageOutcome]:
    """Edit each image by one instruction, check the result, and put it into S3."""
    ratio = None if aspect_ratio == "as input" else aspect_ratio
    outcomes = await asyncio.gather(
        *(
            aimage_to_s3(
                ImageRequest(instruction, images=(image,), model=model, aspect_ratio=ratio),
                credentials=credentials,
                source=destination,
                destination=destination,
                metadata={"edited-from": PurePosixPath(image).name},
            )
            for image in images
        )
    )
    await acreate_contact_sheet_artifact(outcomes, key="edited-images", title="Edited images")
    if not any(outcome.ok for outcome in outcomes):
        raise RuntimeError(f"No image arrived. The first reason: {outcomes[0].reason}")
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("instruction", help="what to change in each image")
    parser.add_argument("images", nargs="+", help="s3://bucket/key, https://… or paths")
    parser.add_argument("--credentials", default="default", help="name of an n1n Credentials block")
    parser.add_argument("--destination", default="default", help="name of an S3 Image Location block")
    given = parser.parse_args()
    credentials, destination = N1nCredentials.load(given.credentials), S3Location.load(given.destination)
    for outcome in asyncio.run(edit_to_s3(given.images, given.instruction, credentials, destination)):
        print(outcome.status, outcome.uploaded.uri if outcome.uploaded else outcome.reason)
