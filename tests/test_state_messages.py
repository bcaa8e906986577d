"""What the page of a run says where a task failed: what happened, what it cost, what to do."""

import re
import time

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from n1n_prefect import (
    HintedDelays,
    ImageSpec,
    N1nCredentials,
    Spending,
    agenerate_image,
    create_contact_sheet_artifact,
    gather_outcomes,
    generate_image,
    upload_image,
    validate_image,
)
from n1n_prefect.outcomes import _outcome_in_words

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_api")]
SMALL = {"model": "gemini-3.1-flash-image", "image_size": "512"}
QUICK = {"retry_delay_seconds": HintedDelays([0.01]), "retries": 1}
STARTS = "Task run encountered an exception "
# The fault, what the message starts with, and how it ends.
CASES = {
    "unauthorized": ("AuthenticationError: ", " Not charged."),
    "quota_exhausted": ("QuotaError: The balance or quota is used up", " Not charged."),
    "prohibited_content": ("RefusedError: The model refused (PROHIBITED_CONTENT)", " It may have been charged."),
    "text_only": ("NoImageError: ", " It may have been charged."),
    "no_channel": ("ModelNotAvailableError: This key's group has no such model", " Not charged."),
    "truncated_json": ("MalformedReplyError: ", ""),  # which say it within their own words
    "close_before_reply": ("OutcomeUnknownError: ", ""),
    "bad_base64": ("MalformedReplyError: ", ""),
    "rate_limited": ("RateLimitError: ", " Not charged."),
}


@pytest.fixture
def gateway(n1n_gateway_factory):
    return n1n_gateway_factory(canned=True, grain=False)


@pytest.fixture
def credentials(gateway):
    return N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url)


def message_on_server(task_run_id):
    with get_client(sync_client=True) as client:
        for _ in range(240):
            try:
                state = client.read_task_run(task_run_id).state
            except ObjectNotFound:
                state = None
            if state and state.is_final():
                return state.message
            time.sleep(0.25)
    pytest.fail("no final state within 60 s")


class TestFailedTasks:
    def test_say_what_happened_and_what_it_cost(self, gateway, credentials):
        for fault in CASES:
            gateway.faults.add(fault, times=None, match=f"<{fault}>")

        @flow
        def draw():
            given = {"credentials": credentials, "spending": Spending(no_image_retries=0, unknown_retries=0)}
            futures = {
                fault: generate_image.with_options(**QUICK).submit(f"<{fault}>", **given, **SMALL) for fault in CASES
            }
            outcomes = dict(zip(futures, gather_outcomes(list(futures.values())), strict=True))
            return {fault: str(future.task_run_id) for fault, future in futures.items()}, outcomes

        ids, outcomes = draw()
        for fault, (start, end) in CASES.items():
            said = message_on_server(ids[fault])
            assert said.startswith(STARTS + start), said
            assert said.endswith(end), said
            assert len(re.findall("not charged|may have been (?:charged|billed)", said.lower())) == 1, said
            assert gateway.api_key not in said
            outcome = outcomes[fault]
            assert not outcome.reason.endswith((" Not charged.", " It may have been charged.")), outcome.reason
            read = _outcome_in_words(said)
            assert (read.status, read.charged, read.reason) == (outcome.status, outcome.charged, outcome.reason)

    async def test_so_do_asynchronous_ones(self, gateway, credentials):
        gateway.faults.add("prohibited_content")

        @flow
        async def draw():
            state = await agenerate_image("a fox", credentials=credentials, return_state=True, **SMALL)
            return [state.message]

        assert (await draw())[0].endswith(" It may have been charged.")

    def test_a_failure_after_the_payment_says_where_the_image_is(self, credentials, s3_location):
        nowhere = s3_location.model_copy(update={"bucket": "nowhere-at-all"})

        @flow
        def draw():
            image = generate_image("a fox", credentials=credentials, **SMALL)
            small = validate_image(image, ImageSpec(max_edge=10), return_state=True)
            lost = upload_image(image, destination=nowhere, return_state=True)
            return image.uri, small.message, lost.message

        uri, invalid, unsaved = draw()
        for said in (invalid, unsaved):
            assert said.endswith(f" Charged; the image is kept at {uri}")
        assert "max_edge: expected" in invalid
        assert "create it, or correct the name" in unsaved

    def test_the_contact_sheet_says_it_once(self, gateway, credentials):
        gateway.faults.add("prohibited_content", times=None)

        @flow
        def draw():
            future = generate_image.submit("a fox", credentials=credentials, **SMALL)
            artifact_id = create_contact_sheet_artifact([future], "a-refusal")
            with get_client(sync_client=True) as client:
                from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterId

                wanted = ArtifactFilter(id=ArtifactFilterId(any_=[artifact_id]))
                return client.read_artifacts(artifact_filter=wanted)[0].data

        sheet = draw()
        assert "(possibly charged)" in sheet
        assert "may have been charged" not in sheet
