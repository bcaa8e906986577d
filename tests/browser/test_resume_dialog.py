"""What a person decides: the dialog that resumes a run, with its pictures."""

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.shop import CREDENTIALS, DESTINATION, PENDING, Shop
from tests.browser.window import Window

pytestmark = [pytest.mark.browser, pytest.mark.prefect]


def _keys(client: Any, shop: Shop, prefix: str) -> set[str]:
    found = client.list_objects_v2(Bucket=shop.bucket, Prefix=f"{prefix}/")
    return {item["Key"] for item in found.get("Contents", ())}


def test_a_person_approves_one_image_and_has_another_drawn_anew(window: Window, shop: Shop, moto_client: Any) -> None:
    calls, published = len(shop.gateway.ledger.calls), _keys(moto_client, shop, "products")
    places = {"pending": PENDING, "published": DESTINATION}
    prompt = f"A lighthouse at noon, seen in {window.ui}"
    run = shop.start("approve-then-publish", prompt=prompt, credentials=CREDENTIALS, candidates=4, **places)

    window.open(f"/runs/flow-run/{shop.paused(run)}")
    dialog = window.open_dialog()
    window.expect_text("rejects the rest", inside=dialog)
    window.expect_pictures(dialog, 4)
    sheet = dialog.locator("img").first.locator("xpath=ancestor::table[1]/..")
    assert sheet.evaluate("place => place.getBoundingClientRect().width >= place.scrollWidth - 1"), "cut at its side"
    # The old UI gives the form its height first, and the pictures what is left of the window.
    assert sheet.evaluate("place => place.getBoundingClientRect().height") > 150
    window.shoot("resume-dialog")
    window.choose("Approve", "image 1")
    window.close_list()
    window.choose("Regenerate", "image 2")
    window.close_list()
    window.field("Note").locator("textarea").fill("2: at night")
    window.page.set_viewport_size({"width": 1400, "height": 1600})
    window.shoot("resume-dialog-filled")
    window.submit_dialog()

    shop.paused_again(run)
    window.open(f"/runs/flow-run/{run}")
    dialog = window.open_dialog()
    window.expect_pictures(dialog, 1)
    window.choose("Approve", "image 5")
    window.close_list()
    window.submit_dialog()
    shop.ended(run)
    window.open(f"/runs/flow-run/{run}")
    expect(window.page.get_by_text("Completed").first).to_be_visible()
    window.shoot("run-after-approval")

    assert shop.state_of(run)["type"] == "COMPLETED"
    assert len(_keys(moto_client, shop, "products") - published) == 2
    assert _keys(moto_client, shop, "pending") == set()
    assert len(shop.gateway.ledger.calls) - calls == 5, "four images and one drawn anew are paid"
