"""The same edit made to many images, each checked and put into S3.

One task run an image, which ends in an outcome whatever happens to it; so it scales to
some hundreds of images, and the flow itself is short.
"""

import argparse
import asyncio
from pathlib import PurePosixPath
from typing import Annotated, Literal
from urllib.parse import urlsplit

from prefect import flow
from pydantic import Field

import n1n_prefect as n1n
from n1n_prefect import ImageOutcome, N1nCredentials, S3Location
from n1n_prefect.catalog import AspectRatio, ImageModel


@flow
async def edit_to_s3(
    images: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=500)],
    instruction: Annotated[str, Field(min_length=1)],
    credentials: N1nCredentials,
    destination: S3Location,
    model: ImageModel = "gemini-2.5-flash-image",
    aspect_ratio: Literal["as input", AspectRatio] = "as input",
) -> list[ImageOutcome]:
    """Edit each image by one instruction, check the result, and put it into S3.

    Args:
        images: What to edit, as s3://bucket/key, https://…, or a path below the working folder; at most 500.
        instruction: What to change in each of them.
        credentials: The n1n Credentials block whose key pays for the edits.
        destination: The S3 Image Location block where the results go. Images at s3://… are read with its keys.
        model: The image model. They differ in price and ratios.
        aspect_ratio: Width to height of the results, or "as input" to keep that of each image.
    """
    ratio = None if aspect_ratio == "as input" else aspect_ratio
    edits = [
        asyncio.ensure_future(
            n1n.aimage_to_s3(
                n1n.ImageRequest(instruction, images=(image,), model=model, aspect_ratio=ratio),
                credentials=credentials,
                source=destination,
                destination=destination,
                metadata={"edited-from": name_of(image)},
            )
        )
        for image in images
    ]
    await n1n.acreate_contact_sheet_artifact(edits, key="edited-images", title="Edited images")
    return n1n.final_state(await asyncio.gather(*edits))


def name_of(image: str) -> str:
    """The file's name, without an address's query, which may hold a signature."""
    return PurePosixPath(urlsplit(image).path if image.lower().startswith("https://") else image).name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("instruction", help="what to change in each image")
    parser.add_argument("images", nargs="+", help="s3://bucket/key, https://… or paths")
    parser.add_argument("--credentials", default="default", help="name of an n1n Credentials block")
    parser.add_argument("--destination", default="default", help="name of an S3 Image Location block")
    given = parser.parse_args()
    credentials, destination = N1nCredentials.load(given.credentials), S3Location.load(given.destination)
    for outcome in asyncio.run(edit_to_s3(given.images, given.instruction, credentials, destination)):
        print(outcome.status, outcome.uploaded.uri if outcome.uploaded else outcome.reason)
