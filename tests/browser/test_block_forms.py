"""What a person fills in once: the two blocks."""

import re

import pytest
from playwright.sync_api import expect

from n1n_prefect import N1nCredentials, S3Location
from tests.browser.shop import API_KEY, CREDENTIALS, DESTINATION, Shop
from tests.browser.window import Window

pytestmark = [pytest.mark.browser, pytest.mark.prefect]


@pytest.mark.parametrize("block", [N1nCredentials, S3Location], ids=lambda block: block.get_block_type_slug())
def test_every_field_of_the_form_has_a_title_and_says_what_it_is(window: Window, block: type) -> None:
    slug = block.get_block_type_slug()
    window.open(f"/blocks/catalog/{slug}/create")
    for field in block.model_json_schema()["properties"].values():
        window.expect_text(field["description"], inside=window.field(field["title"]))
    window.shoot(f"form-{slug}", whole=True)


# The old UI has no boxes for secrets: it shows what is typed, of whatever block, until it is saved.
@pytest.mark.parametrize("window", ["v2"], indirect=True)
def test_what_is_typed_as_a_key_is_not_shown(window: Window) -> None:
    window.open("/blocks/catalog/n1n-credentials/create")
    expect(window.field("API key").locator("input")).to_have_attribute("type", "password")


@pytest.mark.parametrize("window", ["v2"], indirect=True)
def test_a_block_made_in_the_form_has_the_key_and_shows_it_to_nobody(window: Window, shop: Shop) -> None:
    window.open("/blocks/catalog/n1n-credentials/create")
    window.page.get_by_label("Name", exact=True).fill("made-in-the-form")
    window.field("API key").locator("input").fill(API_KEY)
    window.field("Base URL").locator("textarea").fill(shop.gateway.base_url)
    window.page.get_by_role("button", name="Save").click()
    window.expect_text(re.compile(r'"made-in-the-form"'))
    window.expect_text("********")
    saved = window.page.url.rpartition("/")[2]
    kept = shop.server.get(f"/block_documents/{saved}?include_secrets=true")["data"]
    assert (kept["api_key"], kept["base_url"]) == (API_KEY, shop.gateway.base_url)


@pytest.mark.parametrize("name", [CREDENTIALS, DESTINATION])
def test_a_saved_block_shows_how_it_is_used_and_masks_its_secrets(window: Window, shop: Shop, name: str) -> None:
    window.open(f"/blocks/block/{shop.blocks[name]}")
    window.expect_text(re.compile(rf'"{name}"'))
    window.expect_text(re.compile(r"^\*{8}$"))
    window.shoot(f"block-{name}")
    window.open(f"/blocks/block/{shop.blocks[name]}/edit")
    box = window.field("API key" if name == CREDENTIALS else "Secret access key").locator("input, textarea")
    expect(box).to_have_value("********")
    window.expect_nothing_secret()
