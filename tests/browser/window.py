"""A browser window on one of Prefect's two UIs, and how a person finds things in it."""

import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Error, Locator, Page, Response, expect

SCREENSHOTS = Path(__file__).parents[2] / "screenshots"
PATIENCE_MS = 60_000
"""How long Playwright looks for what a test expects, in milliseconds: generous, for machines that do other things."""


@dataclass
class Window:
    """A page of the new UI (`v2`) or of the old one (`v1`), which remembers what it was sent."""

    page: Page
    ui: str
    root: str
    secrets: tuple[str, ...]
    replies: list[Response] = field(default_factory=list)

    def open(self, path: str) -> None:
        self.page.goto(self.root + path)

    def expect_text(self, text: str | re.Pattern[str], *, inside: Locator | None = None) -> None:
        """Waits until a text can be seen."""
        expect((inside or self.page.locator("body")).get_by_text(text).first).to_be_visible()

    def field(self, title: str) -> Locator:
        """A form's field with its label, description and input."""
        label = self.page.locator("label", has_text=re.compile(rf"^\s*{re.escape(title)}( \(Optional\))?\s*$"))
        around = ".//fieldset" if self.ui == "v2" else "contains(concat(' ', @class, ' '), ' p-label ')"
        return label.first.locator(f"xpath=ancestor::*[{around}][1]")

    def choose(self, title: str, option: str) -> None:
        """Picks an option of a field that has a list of them."""
        self.unfold(title)
        self.option(option).click()

    def tick(self, title: str) -> None:
        """Switches a field on that is off."""
        self.field(title).get_by_role("switch").or_(self.field(title).get_by_role("checkbox")).first.click()

    def unfold(self, title: str) -> None:
        """Opens the list of a field's options."""
        field = self.field(title)
        if self.ui == "v2":
            # Beside a list of blocks, and until they are loaded alone, is a button that adds one.
            field.locator("fieldset button").filter(has_not_text=re.compile(r"^Add\b")).first.click()
        else:  # where a click of no duration opens the list and closes it again
            field.locator(".p-select-button__control").first.press("Space")

    def close_list(self) -> None:
        """Folds a list from which several options can be picked."""
        if self.ui == "v2":
            self.page.keyboard.press("Escape")
        else:
            self.page.get_by_text("Resume Flow Run", exact=True).click()
        expect(self.page.get_by_role("option")).to_have_count(0)

    def option(self, name: str) -> Locator:
        """One of the options that are unfolded."""
        return self.page.get_by_role("option", name=name, exact=True)

    def tab(self, name: str) -> None:
        """Goes to a tab of a run's page."""
        new, old = self.page.get_by_role("tab", name=name, exact=True), self.page.locator("li.p-tab", has_text=name)
        new.or_(old).first.click()

    def open_dialog(self) -> Locator:
        """The dialog in which a run that waits is resumed."""
        if self.ui == "v2":
            self.page.get_by_role("button", name="Open menu").click()
            self.page.get_by_role("menuitem", name="Resume").click()
        else:
            self.page.get_by_role("button", name="Resume").click()
        return self.page.get_by_role("dialog")

    def submit_dialog(self) -> None:
        """Presses the button that resumes until the dialog is gone; a busy page now and then misses a click."""
        dialog = self.page.get_by_role("dialog")
        button = dialog.get_by_role("button", name="Resume" if self.ui == "v2" else "Submit", exact=True)
        for _ in range(6):
            button.click()
            with suppress(AssertionError):
                return expect(dialog).to_have_count(0, timeout=10_000)
        raise AssertionError("the dialog stays open")

    def submit(self, address: str) -> Any:
        """Presses Submit until the server has taken the form, as who is told that it is busy does; what it answered."""
        for _ in range(3):
            with self.page.expect_response(re.compile(f"{address}$")) as answered:
                self.page.get_by_role("button", name="Submit").click()
            if answered.value.ok:
                return answered.value.json()
            said = f"{answered.value.status}: {_text_of(answered.value)}"
            assert answered.value.status >= 500, said
        raise AssertionError(f"the server does not take the form, {said}")

    def expect_pictures(self, place: Locator, count: int) -> None:
        """Waits until so many pictures are there, decoded and of a size that can be seen."""
        pictures = place.locator("img[src^='data:image/']")
        expect(pictures).to_have_count(count)
        for picture in pictures.all():
            picture.scroll_into_view_if_needed()
            seen = picture.evaluate("async img => { await img.decode(); return [img.naturalWidth, img.width] }")
            assert min(seen) > 100, f"a picture is {seen[0]} pixels wide, shown with {seen[1]}"

    def shoot(self, name: str, *, whole: bool = False) -> Path:
        """Keeps a picture of what is seen, below `screenshots/`."""
        self.expect_nothing_secret()
        path = SCREENSHOTS / f"{name}-{self.ui}.png"
        self.page.screenshot(path=path, full_page=whole)
        return path

    def expect_nothing_secret(self) -> None:
        """The page, and all that the server has told it, hold no secret."""
        texts = {"the page": self.page.content()} | {reply.url: _text_of(reply) for reply in self.replies}
        holding = [place for place, text in texts.items() if any(secret in text for secret in self.secrets)]
        assert not holding, f"a secret is in {holding}"


def _text_of(reply: Response) -> str:
    """What a reply said; nothing where the browser no longer has it."""
    try:
        return reply.text()
    except Error:
        return ""


def watch(window: Window) -> None:
    """Keeps the API's replies to the page."""

    def keep(reply: Response) -> None:
        if "/api/" in reply.url:
            window.replies.append(reply)

    window.page.on("response", keep)


def only_from(address: str, logo: Path) -> Any:
    """A route that lets the page reach the server alone, and shows the logo as our own file has it."""

    def answer(route: Any) -> None:
        if route.request.url.startswith(address):
            return route.continue_()
        if route.request.url.endswith("/docs/logo.png"):
            return route.fulfill(path=logo)
        return route.abort()

    return answer
