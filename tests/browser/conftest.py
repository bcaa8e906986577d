"""A shop to look at, and a window on each of Prefect's UIs.

Screenshots are kept below `screenshots/`, one more of each test that fails.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.shop import Shop, opened_shop
from tests.browser.window import PATIENCE_MS, SCREENSHOTS, Window, only_from, watch
from tests.prefect_server import PrefectServer
from tests.s3_servers import S3Server, new_bucket

_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
_LOGO = Path(__file__).parents[2] / "docs" / "logo.png"
_FAILED = pytest.StashKey[bool]()
expect.set_options(timeout=PATIENCE_MS)


def _chromium() -> str:
    """Where the system's Chromium is; without one the tests are skipped, or fail if REQUIRE_BROWSER is 1."""
    found = next(filter(None, map(shutil.which, _CHROMIUMS)), None)
    if found is None:
        say = pytest.fail if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip
        say("There is no Chromium to look through; apt-get install chromium")
    return found


# Playwright keeps an event loop running in the main thread while it is open. So it lives as long as a
# module, not a session: the asynchronous tests of other modules need a thread without a loop.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium without a screen."""
    path = _chromium()
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=_ARGUMENTS.split())


@pytest.fixture(scope="session")
def shop(prefect_server: PrefectServer, moto_server: S3Server, moto_client: Any) -> Iterator[Shop]:
    """The shop of the session; its gateway refuses prompts with the word "forbidden"."""
    _chromium()  # before anything is started
    with opened_shop(prefect_server, moto_server, new_bucket(moto_client)) as shop:
        yield shop


@pytest.fixture(params=["v2", "v1"])
def window(request: pytest.FixtureRequest, browser: Browser, shop: Shop) -> Iterator[Window]:
    """A new window of 1400 by 1000 pixels on the new UI and on the old one, which may show nothing secret."""
    ui, address = request.param, shop.server.ui_url
    with browser.new_context(viewport={"width": 1400, "height": 1000}) as context:
        context.add_cookies([{"name": "prefect_ui_version", "value": ui, "url": address}])
        context.set_default_timeout(PATIENCE_MS)
        context.route("**", only_from(address, _LOGO))
        window = Window(context.new_page(), ui, f"{address}/v2" if ui == "v2" else address, shop.secrets)
        watch(window)
        yield window
        if request.node.stash.get(_FAILED, False):
            name = re.sub(r"\W+", "-", request.node.name)
            window.page.screenshot(path=SCREENSHOTS / f"failed-{name}.png", full_page=True)
        window.expect_nothing_secret()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Remembers that a test failed, for the window to be looked at."""
    report = yield
    if call.when == "call":
        item.stash[_FAILED] = report.failed
    return report
