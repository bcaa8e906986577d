"""What a person sees of a batch: its form, its run, and the page about what came of its rows."""

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.shop import CREDENTIALS, DESTINATION, Shop
from tests.browser.window import Window

pytestmark = [pytest.mark.browser, pytest.mark.prefect]

ROWS = """id,prompt,aspect_ratio
kettle,A copper kettle on a plain white background,1:1
knife,A bread knife on a plain white background,3:2
banner,"A reading corner, wide view",16:9
fox,A forbidden fox,1:1
"""


@pytest.fixture(scope="module")
def manifest(shop: Shop, moto_client: Any) -> str:
    """A table of four rows, one of which the model refuses."""
    moto_client.put_object(Bucket=shop.bucket, Key="tables/week-46.csv", Body=ROWS.encode())
    return f"s3://{shop.bucket}/tables/week-46.csv"


@pytest.fixture(scope="module")
def run(shop: Shop, manifest: str) -> str:
    """A run on it that has ended."""
    given = {"credentials": CREDENTIALS, "destination": DESTINATION}
    return shop.ended(shop.start("batch-to-s3", manifest=manifest, batch_id="week-46", **given))


def test_every_parameter_says_what_it_is(window: Window, shop: Shop) -> None:
    deployment = shop.deployment("batch-to-s3")
    fields = shop.server.get(f"/deployments/{deployment}")["parameter_openapi_schema"]["properties"]
    window.open(f"/deployments/deployment/{deployment}/run")
    for name, field in fields.items():
        window.expect_text(field["description"], inside=window.field(name))
    window.shoot("batch-form", whole=True)


def test_a_dry_run_is_started_from_the_form_and_says_what_it_would_cost(
    window: Window, shop: Shop, manifest: str
) -> None:
    calls = len(shop.gateway.ledger.calls)
    window.open(f"/deployments/deployment/{shop.deployment('batch-to-s3')}/run")
    window.field("manifest").locator("textarea").fill(manifest)
    window.choose("credentials", CREDENTIALS)
    window.choose("destination", DESTINATION)
    window.tick("dry_run")
    window.shoot("batch-form-filled")
    created = window.submit("/create_flow_run")
    window.open(f"/runs/flow-run/{created['id']}")
    expect(window.page.get_by_text("Completed").first).to_be_visible()
    window.tab("Details")
    window.expect_text(re.compile(r"Nothing was called\. 4 images from s3://"))
    assert len(shop.gateway.ledger.calls) == calls


def test_the_run_says_how_it_ended(window: Window, run: str) -> None:
    window.open(f"/runs/flow-run/{run}")
    window.expect_text("Completed")
    window.tab("Details")
    window.expect_text(re.compile(r"4 items: 3 uploaded, 1 refused \(75\.0 % arrived\)"))
    window.shoot("batch-run")


def test_its_page_has_numbers_reasons_and_pictures(window: Window, run: str) -> None:
    window.page.set_viewport_size({"width": 1400, "height": 2200})
    window.open(f"/runs/flow-run/{run}")
    window.tab("Artifacts")
    window.page.get_by_text("batch-week-46", exact=True).locator("visible=true").last.click()
    expect(window.page).to_have_url(re.compile("/artifacts/artifact/"))
    for text in ("Batch week-46", re.compile(r"The model refused \(IMAGE_PROHIBITED_CONTENT\)"), "Some of its images"):
        window.expect_text(text)
    window.expect_pictures(window.page.locator("table").last, 3)
    window.shoot("batch-page")
