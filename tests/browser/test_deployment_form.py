"""What a person fills in for each run: a deployment's parameters."""

import re
from typing import get_args

import pytest
from playwright.sync_api import expect

from n1n_prefect.catalog import AspectRatio, ImageModel
from tests.browser.shop import CREDENTIALS, DESTINATION, Shop
from tests.browser.window import Window

pytestmark = [pytest.mark.browser, pytest.mark.prefect]

PROMPTS = ["A red fox in the snow", "A blue teapot on a wooden table"]


def _add_prompts(window: Window) -> None:
    for place, prompt in enumerate(PROMPTS):
        window.field("prompts").get_by_role("button", name="Add item").click()
        window.field("prompts").locator("textarea").nth(place).fill(prompt)


def test_every_parameter_says_what_it_is(window: Window, shop: Shop) -> None:
    deployment = shop.deployment("generate-to-s3")
    fields = shop.server.get(f"/deployments/{deployment}")["parameter_openapi_schema"]["properties"]
    window.open(f"/deployments/deployment/{deployment}/run")
    for name, field in fields.items():
        window.expect_text(field["description"], inside=window.field(name))


@pytest.mark.parametrize(
    ("title", "options"),
    [
        ("model", get_args(ImageModel)),
        ("aspect_ratio", get_args(AspectRatio)),
        ("credentials", [CREDENTIALS]),
        ("destination", [DESTINATION]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_can_be_chosen_is_offered(window: Window, shop: Shop, title: str, options: list[str]) -> None:
    window.open(f"/deployments/deployment/{shop.deployment('generate-to-s3')}/run")
    window.unfold(title)
    for option in options:
        expect(window.option(option)).to_be_attached()


def test_a_run_is_started_from_the_form_and_watched_to_its_end(window: Window, shop: Shop) -> None:
    calls = len(shop.gateway.ledger.calls)
    window.open(f"/deployments/deployment/{shop.deployment('generate-to-s3')}/run")
    _add_prompts(window)
    window.choose("credentials", CREDENTIALS)
    window.choose("destination", DESTINATION)
    window.choose("aspect_ratio", "16:9")
    window.shoot("deployment-form", whole=True)
    created = window.submit("/create_flow_run")
    window.open(f"/runs/flow-run/{created['id']}")
    expect(window.page.get_by_text("Completed").first).to_be_visible()
    window.tab("Details")
    window.expect_text(re.compile("2 images: 2 uploaded"))
    assert len(shop.gateway.ledger.calls) - calls == 2
    window.shoot("run-from-the-form")
