import base64
import re
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from PIL import Image

from n1n_prefect import (
    contact_sheet_markdown,
)
from n1n_prefect.errors import RefusedError
from n1n_prefect.images import ImageOutcome
from tests.staged_images import PICTURE, good, noise, object_of, png, refused, staged

pytestmark = pytest.mark.usefixtures("own_storage")


def rows(sheet: str) -> list[tuple[str, str]]:
    """The two cells of each row, as written."""
    return [
        (cells[1].strip(), cells[2].strip())
        for line in sheet.splitlines()
        if line.startswith("| **") and (cells := re.split(r"(?<!\\)\|", line))
    ]


def names(sheet: str) -> list[str]:
    return [found[1] for left, _ in rows(sheet) if (found := re.match(r"\*\*(.*?)\*\*", left))]


class TestOverview:
    def test_counts_costs_and_losses(self):
        sheet = contact_sheet_markdown(
            [
                good("a"),
                good("b"),
                good("c", status="already_there"),
                refused(),
                ImageOutcome("e", "source_error", "no such file"),
                good("f", staged(reused=True)),
                good("g", staged(estimated_cost_usd=None)),
            ]
        )
        assert sheet.startswith(
            "**7 images**: 4 uploaded, 1 refused, 1 source error, 1 already there. "
            "Estimated cost $0.12, and 1 without a known price. 1 reused, nothing paid. "
            "1 possibly charged without an image.\n"
        )

    def test_a_quiet_run_has_a_short_line(self):
        assert contact_sheet_markdown([good()]).startswith("**1 image**: 1 uploaded. Estimated cost $0.04.\n")

    @pytest.mark.parametrize("nothing", [None, [], (), iter([])])
    def test_nothing_at_all(self, nothing):
        assert contact_sheet_markdown(nothing) == "No images.\n"

    def test_a_charged_failure_with_its_image_is_no_loss(self):
        sheet = contact_sheet_markdown([ImageOutcome("a", "invalid", "blank", image=staged(), charged="yes")])
        assert "without an image" not in sheet

    def test_title(self):
        assert contact_sheet_markdown([good()], title="Week\n46 | <b>").startswith(
            "## Week 46 \\| &lt;b&gt;\n\n**1 image"
        )


class TestRow:
    def test_all_that_is_known_of_an_upload(self):
        image = staged(image_size="1K", model_version="gemini-2.5-flash-image-0925", size_bytes=1_840_000)
        ((left, right),) = rows(contact_sheet_markdown([good("SKU-1", image, attempts=2)]))
        assert left.startswith("**SKU-1**<br>![](data:image/webp;base64,")
        assert right.split("<br>") == [
            "**uploaded** (2 calls)",
            "A red mug on a table",
            "gemini-2.5-flash-image (answered by gemini-2.5-flash-image-0925), asked 4:3, 1K",
            "64x48 pixels, image/png, 1.8 MB, $0.039",
            "`s3://shop/week-46/`",
            f"`{image.sha256}.png`",
        ]

    def test_an_object_on_aws_has_a_link_to_the_console(self):
        image = staged()
        put = object_of(image, key="week 46/a (1)|b.png", region="eu-central-1")
        ((_, right),) = rows(contact_sheet_markdown([good(image=image, uploaded=put)]))
        assert right.endswith(
            "<br>[open in the AWS console](https://eu-central-1.console.aws.amazon.com/s3/object/shop"
            "?region=eu-central-1&prefix=week%2046%2Fa%20%281%29%7Cb.png)"
        )

    def test_the_picture_is_the_image(self):
        ((left, _),) = rows(contact_sheet_markdown([good(image=staged(png(600, 300)))]))
        (body,) = PICTURE.findall(left)
        picture = Image.open(BytesIO(base64.b64decode(body)))
        assert picture.size == (240, 120)
        assert picture.convert("RGB").getpixel((100, 60))[0] > 200

    def test_a_refusal_says_why_and_that_it_may_have_cost(self):
        ((left, right),) = rows(contact_sheet_markdown([refused()]))
        assert left == "**SKU-2**"
        assert right == "**refused** (possibly charged)<br>The prompt was refused \\(SAFETY\\)."

    def test_an_invalid_image_is_shown_with_its_reason(self):
        outcome = ImageOutcome("a", "invalid", "got 1.00", image=staged(), charged="yes", estimated_cost_usd=0.039)
        ((left, right),) = rows(contact_sheet_markdown([outcome]))
        assert PICTURE.search(left)
        assert right.startswith("**invalid**<br>got 1.00<br>A red mug")

    def test_possibly_paid_twice(self):
        sheet = contact_sheet_markdown([good(possible_duplicates=1)])
        assert "possibly paid twice)" in sheet
        assert "1 possibly paid twice." in sheet

    def test_reused(self):
        ((_, right),) = rows(contact_sheet_markdown([good(image=staged(reused=True))]))
        assert right.startswith("**uploaded** (reused, nothing paid)<br>")

    def test_prompts_can_be_kept_out(self):
        assert "red mug" not in contact_sheet_markdown([good()], show_prompts=False)

    def test_a_model_that_answers_under_its_full_name_is_the_same_model(self):
        sheet = contact_sheet_markdown([good(image=staged(model_version="models/gemini-2.5-flash-image"))])
        assert "answered by" not in sheet

    def test_a_long_name_is_cut_under_the_picture_and_whole_beside_it(self):
        name = "autumn/week-46/living-room/sofa-three-seats"
        ((left, right),) = rows(contact_sheet_markdown([refused(name)]))
        assert left == "**autumn/week-46/living-room/so…**"
        assert right.replace("\u200b", "").startswith(name + "<br>")

    def test_a_long_reason_is_cut_and_wrapped(self):
        ((_, right),) = rows(contact_sheet_markdown([refused(reason="because of it " * 500)]))
        verdict, *reason = right.split("<br>")
        assert verdict == "**refused** (possibly charged)"
        assert len(reason) == 4
        assert max(map(len, reason)) <= 90
        assert reason[-1].endswith("…")

    def test_a_long_word_may_break(self):
        ((_, right),) = rows(contact_sheet_markdown([refused(reason="x" * 5000)]))
        assert max(map(len, re.split("<br>|[ \u200b]", right))) <= 41

    def test_what_a_failure_was_about(self):
        outcome = refused(prompt_excerpt="A red fox", model="gemini-3-pro-image")
        ((_, right),) = rows(contact_sheet_markdown([outcome]))
        assert right.endswith("<br>A red fox<br>gemini-3-pro-image")
        assert "fox" not in contact_sheet_markdown([outcome], show_prompts=False)

    @pytest.mark.parametrize("before", [0, 75, 79, 83, 280])
    def test_no_key_is_shown(self, before):
        reason = "x" * before + " Bearer sk-abcdefghijklmnop1234 is wrong"
        sheet = contact_sheet_markdown([refused(reason=reason)])
        assert "abc" not in sheet


class TestWhatIsTaken:
    def test_an_image_before_its_upload(self):
        ((left, right),) = rows(contact_sheet_markdown([staged()]))
        assert PICTURE.search(left)
        assert right.startswith("**pending**<br>Generated and not uploaded.<br>")

    def test_an_upload_with_its_original(self):
        ((left, right),) = rows(contact_sheet_markdown([object_of(staged())]))
        assert PICTURE.search(left)
        assert right.startswith("**uploaded**<br>A red mug")

    def test_an_upload_without_its_original_has_no_picture(self):
        ((left, right),) = rows(contact_sheet_markdown([object_of(staged(), original=None, created=False)]))
        assert not PICTURE.search(left)
        assert right.split("<br>")[:2] == ["**already there**", "gemini-2.5-flash-image"]

    def test_errors_stand_for_their_items(self):
        sheet = contact_sheet_markdown([RefusedError("refused it"), ValueError("odd"), good()])
        assert "2 failed" not in sheet
        assert [right.split("<br>")[0] for _, right in rows(sheet)[:2]] == [
            "**refused** (possibly charged)",
            "**failed** (possibly charged)",
        ]

    def test_none_is_an_item_without_a_result(self):
        sheet = contact_sheet_markdown([None, good()])
        assert sheet.startswith("**2 images**: 1 pending, 1 uploaded.")
        assert ("**no name**", "**pending**<br>There is no result.") in rows(sheet)

    def test_a_generator(self):
        assert names(contact_sheet_markdown(good(f"n{n}") for n in range(2))) == ["n0", "n1"]

    def test_the_same_outcome_twice_is_counted_twice(self):
        assert "\n… and 26 more: 26 uploaded.\n" in contact_sheet_markdown([good()] * 50)


class TestOrder:
    def test_failures_then_unfinished_then_the_rest_each_as_given(self):
        sheet = contact_sheet_markdown(
            [good("a"), ImageOutcome("b", "pending"), refused("c"), good("d"), ImageOutcome("e", "failed", "x")]
        )
        assert names(sheet) == ["c", "e", "b", "a", "d"]


class TestUnreadable:
    def test_a_lost_original_is_said_in_its_row_and_in_the_log(self, caplog):
        image = staged(png(50, 50))
        Path(image.uri.removeprefix("file://")).unlink()
        sheet = contact_sheet_markdown([good("lost", image), good("kept")])
        assert rows(sheet)[0][0] == "**lost**<br>no picture: original not readable"
        assert PICTURE.search(rows(sheet)[1][0])
        assert "is gone" in caplog.text

    def test_changed_bytes_are_not_shown(self):
        image = staged(png(51, 51))
        Path(image.uri.removeprefix("file://")).write_bytes(png(51, 51, "blue"))
        assert "original not readable" in contact_sheet_markdown([good(image=image)])

    def test_a_storage_key_outside_of_the_storage(self):
        assert "original not readable" in contact_sheet_markdown([good(image=staged(storage_key="../../etc/passwd"))])

    @pytest.mark.parametrize("data", [b"<html>", png()[:40], noise(1)[:5000]])
    def test_bytes_that_do_not_decode(self, data):
        sheet = contact_sheet_markdown([ImageOutcome("a", "invalid", "truncated", image=staged(data))])
        assert rows(sheet)[0][0] == "**a**<br>no picture: does not decode"


class TestBounds:
    def test_24_pictures_and_the_rest_counted(self):
        outcomes = [good(f"n{n}") for n in range(494)] + [refused(f"r{n}") for n in range(6)]
        sheet = contact_sheet_markdown(outcomes)
        assert len(PICTURE.findall(sheet)) == 24
        assert names(sheet) == [f"r{n}" for n in range(6)] + [f"n{n}" for n in range(24)]
        assert sheet.endswith("\n… and 470 more: 470 uploaded.\n\n")

    def test_failures_are_listed_to_100_and_their_reasons_counted(self):
        outcomes = [refused(f"r{n}", f"reason {n % 3}") for n in range(300)] + [good()]
        sheet = contact_sheet_markdown(outcomes)
        assert len(rows(sheet)) == 101
        assert "\n… and 200 more: 200 refused.\n\n- 67 of them: reason " in sheet
        assert sheet.count(" of them: ") == 3

    def test_many_reasons_are_counted_together(self):
        sheet = contact_sheet_markdown([refused(f"r{n}", f"reason {n}") for n in range(200)])
        assert sheet.endswith("- and 92 other reasons\n")

    def test_failures_with_images_take_the_pictures_first(self):
        invalid = [ImageOutcome(f"i{n}", "invalid", "blank", image=staged()) for n in range(5)]
        sheet = contact_sheet_markdown([*(good(f"g{n}") for n in range(5)), *invalid], max_thumbnails=3)
        assert names(sheet) == ["i0", "i1", "i2", "i3", "i4"]
        assert [bool(PICTURE.search(left)) for left, _ in rows(sheet)] == [True, True, True, False, False]

    def test_no_thumbnails_wanted(self):
        sheet = contact_sheet_markdown([good(), refused()], max_thumbnails=0)
        assert names(sheet) == ["SKU-2"]
        assert "… and 1 more: 1 uploaded." in sheet

    def test_a_megabyte_holds_24_of_the_worst_images(self):
        sheet = contact_sheet_markdown([good(f"n{n}", staged(noise(n))) for n in range(24)])
        assert len(PICTURE.findall(sheet)) == 24
        assert len(sheet.encode()) <= 1_000_000
        assert all(len(body) <= 40_000 / 3 * 4 + 4 for body in PICTURE.findall(sheet))

    @pytest.mark.parametrize("max_total_bytes", [0, 6_000, 20_000, 100_000, 200_000])
    def test_a_smaller_document(self, max_total_bytes):
        outcomes = [good(f"n{n}", staged(noise(n))) for n in range(6)]
        outcomes += [refused(f"&{n}" * 40, "&🦊@" * 200) for n in range(150)]
        sheet = contact_sheet_markdown(outcomes, max_total_bytes=max_total_bytes)
        assert len(sheet.encode()) <= max(max_total_bytes, 5_000)
        assert sheet.startswith("**156 images**")
        listed = len(rows(sheet))
        assert f"… and {156 - listed} more" in sheet

    def test_pictures_give_way_before_rows(self):
        outcomes = [good(f"n{n}", staged(noise(n))) for n in range(10)]
        sheet = contact_sheet_markdown(outcomes, max_total_bytes=10_500)
        assert len(rows(sheet)) == 10
        assert len(PICTURE.findall(sheet)) < 10


HOSTILE = [
    "a|b || c \\| d",
    "<img src=x onerror=alert(1)> <script>alert(1)</script> <!-- x",
    "`code` ``two`` ```three",
    "[click](javascript:alert(1)) [ref][1] ![x](https://evil.example/b.png)",
    "![](data:image/svg+xml;base64,PHN2Zy8+) <svg/onload=alert(1)>",
    "see https://evil.example/x www.evil.example HTTP://EVIL.example Www.evil.example a@evil.example",
    "<https://evil.example> <a@evil.example> mailto:a@evil.example xmpp:a@evil.example",
    "*em* _em_ **b** __b__ ~~s~~ ***x***",
    "line\n\n# heading\n- item\n\n| a | b |\n|---|---|\n| 1 | 2 |",
    "&lt;b&gt; &amp; &#124; &copy; &#x5b;x](y)",
    "ends with a backslash \\",
    "**",
    "\u202egnp.exe \x00\x1b[31m \ud800 \u2028 \u2029 \x85 \ufeff",
    "x[^1] $x$ ^y^ {z} <br>",
    "[1]: https://evil.example",
]


def tokens_of(sheet: str) -> list[Token]:
    """All tokens by a CommonMark parser with GitHub's tables and with HTML."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return [part for token in parser.parse(sheet) for part in (token, *(token.children or ()))]


class TestHostileText:
    @pytest.fixture(params=HOSTILE)
    def hostile(self, request) -> str:
        return request.param

    @pytest.fixture
    def sheet(self, hostile) -> str:
        image = staged(model=hostile, model_version=hostile + "!", prompt_excerpt=hostile, aspect_ratio=hostile)
        put = object_of(image, bucket=hostile, key=hostile, media_type=hostile)
        outcomes = [
            good(hostile, image, uploaded=put, reason=hostile),
            refused(hostile, hostile),
            *(refused(str(n), hostile) for n in range(101)),
        ]
        return contact_sheet_markdown(outcomes, title=hostile)

    def test_nothing_but_our_own_pictures_renders(self, sheet):
        seen = tokens_of(sheet)
        pictures = [token.attrs["src"] for token in seen if token.type == "image"]
        assert len(pictures) == 1
        assert pictures[0].startswith("data:image/webp;base64,")
        assert {token.content for token in seen if token.type in ("html_inline", "html_block")} == {"<br>"}
        assert not [token for token in seen if token.type in ("link_open", "em_open", "s_open", "code_inline", "fence")]

    def test_the_table_keeps_its_shape(self, sheet):
        kinds = [token.type for token in tokens_of(sheet)]
        assert kinds.count("tr_open") == 1 + 100 + 1
        assert kinds.count("td_open") == 2 * (100 + 1)
        assert kinds.count("table_open") == kinds.count("bullet_list_open") == kinds.count("heading_open") == 1

    def test_the_text_is_shown_as_it_was_written(self, sheet, hostile):
        visible = "".join(char if char.isprintable() else " " for char in hostile)
        shown = [re.sub("[\u2060\u200b]", "", token.content) for token in tokens_of(sheet) if token.type == "text"]
        assert " ".join(visible.split()) in shown

    def test_nothing_that_looks_like_a_link_is_left(self, sheet):
        words = " ".join(token.content for token in tokens_of(sheet) if token.type == "text")
        assert not re.search(r"\w+://|www\.|\w@|mailto:\w+@", words, re.IGNORECASE)

    def test_it_can_be_sent(self, sheet):
        assert sheet.encode()

    def test_an_address_with_a_backtick_is_no_code(self):
        image = staged()
        sheet = contact_sheet_markdown([good(image=image, uploaded=object_of(image, key="a`b`|c"))])
        assert "a\\`b\\`\\|c" in sheet

    @pytest.mark.parametrize("key", ["каталог/кружка.png", "a/b-c_d~e=1,2+3%20'.png"])
    def test_an_honest_address_is_code(self, key):
        image = staged()
        folder, _, name = f"s3://shop/{key}".rpartition("/")
        sheet = contact_sheet_markdown([good(image=image, uploaded=object_of(image, key=key))])
        assert f"`{folder}/`<br>`{name}`" in sheet

    @pytest.mark.parametrize("key", HOSTILE)
    def test_no_key_breaks_out_of_its_link(self, key):
        image = staged()
        put = object_of(image, bucket=key, key=key, region="eu-central-1")
        seen = tokens_of(contact_sheet_markdown([good(image=image, uploaded=put)]))
        (link,) = [token for token in seen if token.type == "link_open"]
        assert link.attrs["href"].startswith("https://eu-central-1.console.aws.amazon.com/s3/object/")
        assert link.attrs["href"].endswith(f"&prefix={quote(key, safe='', errors='replace')}")

    @pytest.mark.parametrize("region", HOSTILE)
    def test_a_region_that_is_none_makes_no_link(self, region):
        image = staged()
        sheet = contact_sheet_markdown([good(image=image, uploaded=object_of(image, region=region))])
        assert "console" not in sheet

    def test_joined_emoji_survive(self):
        family = "👩\u200d👩\u200d👧"
        assert family in contact_sheet_markdown([refused(reason=family)])
