"""What a person looks at after a run: how it ended, why something failed, and the pictures."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.shop import Shop
from tests.browser.window import Window

pytestmark = [pytest.mark.browser, pytest.mark.prefect]

REASON = re.compile(r"The model refused \(IMAGE_PROHIBITED_CONTENT\) and said: Unable to show the")
COUNTS = "3 images: 2 uploaded, 1 refused."


@pytest.fixture(scope="module")
def run(shop: Shop) -> str:
    """A run of three prompts, one of which the model refuses."""
    return shop.generate("A red fox in the snow", "A forbidden fox", "A blue teapot on a wooden table")


def test_the_run_says_how_it_ended(window: Window, run: str) -> None:
    window.open(f"/runs/flow-run/{run}")
    for text in ("Completed", "shop", "products", "9 Task runs"):
        window.expect_text(text)
    window.tab("Details")
    window.expect_text(re.compile(re.escape(COUNTS)))
    window.shoot("run-details")
    window.tab("Task Runs")
    window.expect_text(re.compile("^generate "))
    window.expect_text("Failed")
    window.shoot("run-tasks", whole=True)


def test_no_name_of_a_task_run_holds_a_prompt(shop: Shop, run: str) -> None:
    names = [task_run["name"] for task_run in shop.task_runs(run)]
    assert len(names) == 9
    assert not [name for name in names if "fox" in name or len(name) > 30]


def test_a_failed_task_says_in_words_why(window: Window, shop: Shop, run: str) -> None:
    (failed,) = [task_run["id"] for task_run in shop.task_runs(run) if task_run["state_type"] == "FAILED"]
    window.open(f"/runs/task-run/{failed}")
    window.expect_text("Failed")
    window.expect_text(REASON)
    window.shoot("failed-task")


def test_the_contact_sheet_shows_its_pictures(window: Window, run: str) -> None:
    window.open(f"/runs/flow-run/{run}")
    window.tab("Artifacts")
    window.page.get_by_text("generated-images").locator("visible=true").last.click()
    expect(window.page).to_have_url(re.compile("/artifacts/artifact/"))
    window.expect_text(re.compile(re.escape("2 uploaded, 1 refused")))
    window.expect_text(REASON)
    window.expect_pictures(window.page.locator("table"), 2)
    window.shoot("contact-sheet")


def test_nothing_secret_is_on_disk(shop: Shop, run: str) -> None:
    assert not [path for secret in shop.secrets for path in shop.server.holding(secret)]
