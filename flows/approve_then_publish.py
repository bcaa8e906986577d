"""Several images for one prompt, of which a person publishes the good ones.

They wait below a pending prefix, and the run waits for a person: its Resume dialog shows them,
each to be approved, rejected, or drawn anew with a note. Whoever resumes it pays for nothing twice.
"""

import argparse
from typing import Annotated, Literal

from prefect import flow, unmapped
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

import n1n_prefect as n1n
from n1n_prefect import ImageOutcome, ImageRequest, N1nCredentials, S3Location
from n1n_prefect.catalog import AspectRatio, ImageModel

ROUNDS = 3  # how often a person is asked at most


@flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
def approve_then_publish(
    prompt: Annotated[str, Field(min_length=1)],
    credentials: N1nCredentials,
    pending: S3Location,
    published: S3Location,
    candidates: Annotated[int, Field(ge=1, le=8)] = 3,
    model: ImageModel = "gemini-2.5-flash-image",
    aspect_ratio: AspectRatio = "1:1",
    wait: Literal["pause", "suspend"] = "pause",
    timeout_minutes: Annotated[float, Field(gt=0, le=525_600)] = 1440,
    on_timeout: Literal["reject", "approve", "fail"] = "reject",
) -> list[ImageOutcome]:
    """Draw several images for one prompt, ask a person about each, and publish what is approved.

    Args:
        prompt: What to draw.
        credentials: Who pays.
        pending: Where the images wait for a decision.
        published: Where approved images go, in the same store.
        candidates: How many images to choose from; each is paid for.
        model: The image model.
        aspect_ratio: Width to height.
        wait: Pause keeps the process; suspend ends it, and a worker goes on once there is an answer.
        timeout_minutes: How long to wait for an answer in each round; at most a year.
        on_timeout: What happens then.
    """
    n1n.check_review(pending, published, wait=wait)
    review, shape = n1n.Review(), {"model": model, "aspect_ratio": aspect_ratio}
    draws = [ImageRequest(prompt, **shape, sample=sample) for sample in range(candidates)]
    for left in reversed(range(ROUNDS)):
        images = n1n.generate_image.map(draws, credentials=unmapped(credentials))
        uploads = n1n.upload_image.map(n1n.validate_image.map(images), destination=unmapped(pending))
        terms = {"wait": wait, "timeout_seconds": timeout_minutes * 60, "on_timeout": on_timeout}
        latest = n1n.review_images(uploads, may_regenerate=left > 0, **terms)
        review, draws = review + latest, latest.next_requests(draws)
        if not draws:
            break

    approved = [image.uploaded for image in review.approved]
    copies = n1n.upload_image.map(approved, destination=unmapped(published))
    outcomes = [*n1n.gather_outcomes(copies), *review.set_aside, *review.failed]
    n1n.create_contact_sheet_artifact(outcomes, key="approved-images", title="What came of it")
    n1n.discard_image.map(approved, location=unmapped(pending), published=copies).wait()
    unwanted = [image.uploaded for image in review.rejected + review.to_regenerate]
    n1n.discard_image.map(unwanted, location=unmapped(pending)).wait()
    return n1n.final_state(outcomes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt", help="what to draw")
    parser.add_argument("--credentials", default="default", help="name of an n1n Credentials block")
    parser.add_argument("--pending", default="pending", help="name of an S3 Image Location block")
    parser.add_argument("--published", default="default", help="name of an S3 Image Location block")
    given = parser.parse_args()
    blocks = N1nCredentials.load(given.credentials), S3Location.load(given.pending), S3Location.load(given.published)
    for outcome in approve_then_publish(given.prompt, *blocks):
        print(outcome.status, outcome.uploaded.uri if outcome.uploaded else outcome.reason)
