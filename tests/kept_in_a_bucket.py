"""A flow whose results are where the environment says, run in a process of its own, and resumed in another."""

import os
import sys

from prefect import flow, unmapped
from prefect_aws import S3Bucket

from n1n_prefect import N1nCredentials, S3Location, generate_image, upload_image


@flow
def draw_and_upload(prompts: list[str], credentials: N1nCredentials, bucket: str) -> list[str]:
    """Draws the prompts and puts them where an S3Bucket points to; breaks off in the end where it is told to."""
    given = {"credentials": unmapped(credentials), "model": "gemini-3.1-flash-image", "image_size": "512"}
    images = generate_image.map(prompts, **given).result()
    # The stores of the tests take an MD5 for a checksum, all of them.
    destination = S3Location.from_block(S3Bucket.load(bucket), checksum="md5")
    uploaded = upload_image.map(images, destination=unmapped(destination)).result()
    if os.environ.get("BREAKS_OFF"):
        raise RuntimeError("told to break off")
    return [found.uri for found in uploaded]


def main(run_name: str, credentials: str, bucket: str, *prompts: str) -> None:
    """Runs it under a name, with saved blocks."""
    flow = draw_and_upload.with_options(flow_run_name=run_name)
    print(*flow(list(prompts), N1nCredentials.load(credentials), bucket), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
