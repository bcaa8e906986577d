"""Our own tasks in flows, under the gateway's faults: nothing is paid twice that was known, and nothing lost.

One flow is run under all faults, and the others under one fault of each kind, since a run takes up to two
seconds; `FAULT_MATRIX=all pytest -s tests/testing/test_our_flows_under_faults.py` runs every one under all,
in some ten minutes, and prints their tables.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, unmapped
from prefect.flows import load_flow_from_entrypoint
from prefect.task_runners import ThreadPoolTaskRunner

import n1n_prefect as n1n
from n1n_prefect import HintedDelays, N1nCredentials, S3Location
from n1n_prefect.testing import FAULTS, FaultMatrix
from tests.testing.asking import png

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.usefixtures("prefect_api")]

# As in earnest, but that a task waits no time of its own before it tries again.
QUICK: dict[str, Any] = {"retry_delay_seconds": HintedDelays([0.05])}
generate = n1n.generate_image.with_options(**QUICK)
validate = n1n.validate_image.with_options(**QUICK)
upload = n1n.upload_image.with_options(**QUICK)
image_to_s3 = n1n.image_to_s3.with_options(**QUICK)
agenerate = n1n.agenerate_image.with_options(**QUICK)
aedit = n1n.aedit_image.with_options(**QUICK)
avalidate = n1n.avalidate_image.with_options(**QUICK)
aupload = n1n.aupload_image.with_options(**QUICK)
aimage_to_s3 = n1n.aimage_to_s3.with_options(**QUICK)

ONE_OF_EACH_KIND = (
    "ok", "gzip", "truncated_json", "reset_mid_body", "close_before_reply", "close_idle", "unauthorized",
    "rate_limited", "internal", "no_channel", "gateway_timeout", "html_in_200", "safety", "image_safety", "no_image",
    "prompt_blocked", "wrong_size", "truncated_image", "bad_base64", "mislabelled", "parts_url",
)  # fmt: skip
FEW = None if os.environ.get("FAULT_MATRIX") == "all" else ONE_OF_EACH_KIND
UNFETCHED = "the image came as an address on 127.0.0.1, which was not fetched"


@flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
def chain(prompts: list[str], credentials: N1nCredentials, destination: S3Location) -> list[n1n.ImageOutcome]:
    """The chain of flows/generate_to_s3.py."""
    images = generate.map(prompts, credentials=unmapped(credentials))
    return n1n.gather_outcomes(upload.map(validate.map(images), destination=unmapped(destination)))


@flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
def items(prompts: list[str], credentials: N1nCredentials, destination: S3Location) -> list[n1n.ImageOutcome]:
    return image_to_s3.map(prompts, credentials=unmapped(credentials), destination=unmapped(destination)).result()


@flow
async def aitems(
    prompts: list[str], credentials: N1nCredentials, destination: S3Location, stream: bool = False
) -> list[n1n.ImageOutcome]:
    where: dict[str, Any] = {"credentials": credentials, "destination": destination, "stream": stream}
    return await asyncio.gather(*(aimage_to_s3(prompt, **where) for prompt in prompts))


@flow
async def aedits(instruction: str, image: bytes, credentials: N1nCredentials, destination: S3Location) -> object:
    """The three tasks one after another, each with its own retries."""
    edited = await aedit(instruction, image, credentials=credentials)
    return await aupload(await avalidate(edited), destination=destination)


def judge(matrix: FaultMatrix, faults: Sequence[str] | None = None) -> None:
    """What every flow of ours owes, and that it comes to an image wherever one can be had."""
    print(f"\n{matrix.to_markdown(grouped=True)}")
    matrix.assert_paid_once()
    assert [row.fault for row in matrix.rows] == list(faults or FAULTS)
    for row in matrix.rows:
        fault = FAULTS[row.fault]
        assert row.billed <= 1 + fault.in_doubt
        assert row.maybe_twice == fault.in_doubt
        assert row.note == (UNFETCHED if fault.by_address else "")
        if fault.asks_to_wait:
            assert row.calls == 2


@pytest.mark.timeout(1800)
class TestNothingIsPaidTwiceOrLost:
    def test_by_the_chain_of_three_tasks(self, n1n_fault_matrix, s3_location):
        judge(n1n_fault_matrix(lambda credentials: chain(["a fox"], credentials, s3_location), faults=FEW), FEW)

    def test_by_one_task_an_item(self, n1n_fault_matrix, s3_location):
        judge(n1n_fault_matrix(lambda credentials: items(["a fox"], credentials, s3_location), faults=FEW), FEW)

    def test_by_one_asynchronous_task_an_item(self, n1n_fault_matrix, s3_location):
        judge(n1n_fault_matrix(lambda credentials: aitems(["a fox"], credentials, s3_location)))

    def test_by_an_edit(self, n1n_fault_matrix, s3_location):
        judge(n1n_fault_matrix(lambda credentials: aedits("winter", png(), credentials, s3_location), faults=FEW), FEW)

    def test_by_a_streamed_answer(self, n1n_fault_matrix, s3_location):
        streaming = lambda credentials: aitems(["a fox"], credentials, s3_location, stream=True)  # noqa: E731
        judge(n1n_fault_matrix(streaming, faults=FEW), FEW)

    def test_of_several_images_when_one_is_struck(self, n1n_fault_matrix, s3_location):
        prompts = ["a fox", "an owl", "a hare"]
        matrix = n1n_fault_matrix(lambda credentials: aitems(prompts, credentials, s3_location), faults=FEW)
        matrix.assert_paid_once()
        assert all(row.billed >= 2 for row in matrix.rows), "the others are drawn whatever becomes of the first"

    def test_by_an_example_flow_as_it_is(self, n1n_fault_matrix, s3_location, monkeypatch):
        for task in (n1n.generate_image, n1n.validate_image, n1n.upload_image):
            monkeypatch.setattr(task, "retry_delay_seconds", HintedDelays([0.05]))
        path = Path(__file__).parents[2] / "flows/generate_to_s3.py"
        generate_to_s3 = load_flow_from_entrypoint(f"{path}:generate_to_s3")
        faults = ["ok", "internal", "reset_mid_body", "truncated_image"]
        matrix = n1n_fault_matrix(
            lambda credentials: generate_to_s3(["a fox", "an owl"], credentials, s3_location), faults=faults
        )
        matrix.assert_paid_once()
        assert [row.ended for row in matrix.rows] == ["2 uploaded"] * 3 + ["1 uploaded, 1 invalid"]


class TestWhatTheMatrixFinds:
    def test_a_task_that_forgets_what_it_paid(self, n1n_fault_matrix, s3_location):
        """The same flow without the journal's help: another sample a try."""

        @flow
        async def naive(credentials: N1nCredentials) -> object:
            for sample in range(3):
                image = await agenerate("a fox", credentials=credentials, sample=sample)
                if image.width == 1024:
                    return image
            return None

        matrix = n1n_fault_matrix(naive, faults=["ok", "wrong_size"])
        assert [(row.duplicates, row.lost) for row in matrix.rows] == [(0, 0), (1, 1)]
        with pytest.raises(AssertionError, match="wrong_size: paid 1 image too many though it had the image"):
            matrix.assert_paid_once()
