import pytest

from n1n_prefect.batch.checking import RowChecker, checked_defaults, identity_of
from n1n_prefect.batch.items import BadRow, Item
from n1n_prefect.batch.seen import Seen
from n1n_prefect.batch.text_rows import RawRow
from n1n_prefect.blocks import S3Location
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import ImageRequest
from n1n_prefect.variants import Variant

PRO = "gemini-3-pro-image"
BOTH = (Variant("thumb", 64), Variant("web", 128))


@pytest.fixture
def checker(tmp_path):
    with Seen(tmp_path / "seen.sqlite") as seen:

        def made(template="{prefix}/{name}.{extension}", **options):
            destination = S3Location(bucket="shop", prefix="img", key_template=template)
            return RowChecker(destination=destination, folder="img/week-46", seen=seen, **options)

        yield made


@pytest.fixture
def check(checker):
    """What becomes of one row of CSV or JSON."""
    one = checker()
    lines = iter(range(2, 1000))
    return lambda **values: one.check(RawRow(next(lines), {"id": "a", "prompt": "A fox", **values}))


def all_of(checker, *rows):
    return [checker.check(RawRow(line, row)) for line, row in enumerate(rows, 2)]


def reasons(*rows):
    return [row.reason if isinstance(row, BadRow) else "" for row in rows]


class TestRequest:
    def test_a_prompt_alone(self, check):
        assert check() == Item("a", 2, ImageRequest("A fox"))

    def test_every_field_as_a_text(self, check):
        item = check(
            images="a.png",
            model=" gemini-3.1-flash-image ",
            aspect_ratio="16:9",
            image_size="2K",
            temperature="0.5",
            seed="7",
            thinking_level="high",
            system_instruction="Paint",
            safety_settings='{"HARM_CATEGORY_HARASSMENT": "BLOCK_NONE"}',
            google_search="yes",
            extra_body='{"a": [1, 2.5, null]}',
            stream="TRUE",
            sample="3",
        )
        assert item.request == ImageRequest(
            "A fox",
            ("a.png",),
            "gemini-3.1-flash-image",
            "16:9",
            "2K",
            0.5,
            7,
            "high",
            "Paint",
            {"HARM_CATEGORY_HARASSMENT": "BLOCK_NONE"},
            True,
            {"a": [1, 2.5, None]},
            True,
            3,
        )

    def test_values_that_have_types_already(self, check):
        item = check(
            images=["a.png", "s3://b/c.png"], temperature=1, seed=7.0, stream=True, sample=2, extra_body={"a": 1}
        )
        assert item.request == ImageRequest(
            "A fox", ("a.png", "s3://b/c.png"), temperature=1.0, seed=7, stream=True, sample=2, extra_body={"a": 1}
        )

    def test_an_empty_cell_is_the_default(self, checker):
        one = checker(defaults={"model": PRO, "image_size": "2K", "aspect_ratio": None})
        item = one.check(
            RawRow(2, {"id": "a", "prompt": "A fox", "model": "", "image_size": " ", "seed": None, "temperature": ""})
        )
        assert item.request == ImageRequest("A fox", model=PRO, image_size="2K")
        assert one.check(RawRow(3, {"id": "b", "prompt": "A fox", "temperature": float("nan")})).request == item.request

    def test_a_cell_wins_over_the_default(self, checker):
        one = checker(defaults={"prompt": "An owl", "images": "a.png"})
        given = {"id": "a", "prompt": "A fox", "images": ["b.png"]}
        assert one.check(RawRow(2, given)).request == ImageRequest("A fox", ("b.png",))
        assert one.check(RawRow(3, {"id": "b"})).request == ImageRequest("An owl", ("a.png",))

    @pytest.mark.parametrize(
        ("text", "images"),
        [
            ("a.png", ("a.png",)),
            (" a.png | s3://b/c d.png| ", ("a.png", "s3://b/c d.png")),
            ('["a.png", "b|c.png"]', ("a.png", "b|c.png")),
            (["b|c.png"], ("b|c.png",)),
            ("[]", ()),
        ],
    )
    def test_images_in_every_form(self, check, text, images):
        assert check(images=text).request.images == images
        assert check(id="b", image=text).request.images == images

    def test_the_prompt_is_left_as_it_is(self, check):
        assert check(prompt=" Two\nlines ").request.prompt == " Two\nlines "

    @pytest.mark.parametrize("word", ["no", "false", "0", "No", "FALSE"])
    def test_words_for_no(self, check, word):
        assert check(stream=word).request.stream is False

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"prompt": "  "}, "prompt is empty; say what to draw"),
            ({"prompt": 5}, "prompt=5 is a number; write it as a text"),
            ({"prompt": ["a"]}, "is a list; write it as a text"),
            ({"model": "two words"}, "is no model's id"),
            ({"aspect_ratio": "17:9"}, "aspect_ratio='17:9' is not something"),
            ({"aspect_ratio": 1.5}, "aspect_ratio=1.5 is a number; write it as a text"),
            ({"image_size": "2K"}, "leave image_size out"),
            ({"model": PRO, "image_size": "8K"}, "it has 1K, 2K, 4K"),
            ({"temperature": "hot"}, "temperature='hot': Input should be a valid number"),
            ({"temperature": "3"}, "temperature=3.0 is not between 0 and 2"),
            ({"seed": "1.5"}, "seed='1.5': Input should be a valid integer"),
            ({"sample": "-1"}, "greater than or equal to 0"),
            ({"stream": "perhaps"}, "stream='perhaps': Input should be a valid boolean"),
            ({"google_search": "yes"}, "cannot search"),
            ({"images": "|".join(["a.png"] * 15)}, "15 input images; 'gemini-2.5-flash-image' takes at most 14"),
            ({"images": "[a.png]"}, "images must be an array of texts, such as"),
            ({"images": [5]}, "images=5 is a number"),
            ({"images": {"a": 1}}, "is an object"),
            ({"images": ["a.png "]}, r"use .strip()"),
            ({"safety_settings": "none"}, "safety_settings must be an object of JSON, such as"),
            ({"safety_settings": '["a"]'}, "safety_settings=['a'] is a list; write an object of JSON"),
            ({"safety_settings": '{"a": 1}'}, "safety_settings"),
            ({"extra_body": "{'a': 1}"}, "extra_body must be an object of JSON"),
            ({"extra_body": '{"a": NaN}'}, "holds NaN"),
            ({"prompt": "x" * 1_000_001}, "prompt has 1,000,001 characters"),
            ({"images": "data:image/png;base64," + "A" * 1_000_000}, "put a file into a bucket"),
        ],
    )
    def test_what_is_wrong_is_said(self, check, values, said):
        bad = check(**values)
        assert isinstance(bad, BadRow)
        assert said in bad.reason
        assert (bad.line, bad.id) == (2, "a")

    def test_a_key_like_text_is_masked(self, check):
        assert "AIzaSyA1234567890" not in check(temperature="AIzaSyA1234567890").reason


class TestDefaults:
    @pytest.mark.parametrize(
        ("defaults", "said"),
        [
            ({"aspect_ration": "16:9"}, "there is no field 'aspect_ration'"),
            ({"temperature": "hot"}, "temperature='hot'"),
            ({"images": [5]}, "image 1 is of type 'int'"),
        ],
    )
    def test_wrong_ones_are_refused_before_any_row(self, checker, defaults, said):
        with pytest.raises(InvalidRequestError, match=said):
            checker(defaults=defaults)

    def test_what_a_row_may_still_change_is_let_through(self):
        assert checked_defaults({"image_size": "2K", "seed": None}) == {"image_size": "2K"}


class TestIds:
    @pytest.mark.parametrize(
        ("given", "name"), [("sku-1", "sku-1"), (" Füchse 狐 🦊 ", "Füchse 狐 🦊"), (5, "5"), ("x" * 200, "x" * 200)]
    )
    def test_of_any_letters(self, check, given, name):
        assert check(id=given).id == name

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("", "id is empty; give every row its own, or leave out the whole column"),
            (None, "id is empty"),
            (1.5, "id=1.5 is a number; write it as a text"),
            (True, "id=True is a boolean"),
            ("x" * 201, "id has 201 characters, and at most 200 are taken"),
            ("a\nb", "holds control characters or line ends"),
            ("a\u2028b", "holds control characters or line ends"),
            ("a/../b", "has a '.' or '..' between its slashes"),
        ],
    )
    def test_those_that_cannot_be(self, check, given, said):
        assert said in check(id=given).reason

    def test_a_second_one_names_the_line_of_the_first(self, checker):
        rows = all_of(checker(), *({"id": name, "prompt": "A fox"} for name in ("a", "b", " a", "a")))
        assert reasons(*rows) == ["", "", *["id='a' is also that of line 2; give every row its own."] * 2]

    def test_the_id_of_a_bad_row_is_taken(self, checker):
        rows = all_of(checker(), {"id": "a", "prompt": ""}, {"id": "a", "prompt": "A fox"})
        assert reasons(*rows)[1].startswith("id='a' is also that of line 2")


class TestMadeIds:
    def test_they_stay_when_rows_are_put_in_before(self, checker, tmp_path):
        before = all_of(checker(), {"prompt": "A fox"}, {"prompt": "An owl"})
        with Seen(tmp_path / "later.sqlite") as seen:
            location = S3Location(bucket="shop", key_template="{prefix}/{name}.{extension}")
            later = RowChecker(destination=location, folder="b", seen=seen)
            after = all_of(later, {"prompt": "A hare"}, {"prompt": "A fox"}, {"prompt": "An owl"})
        assert [item.id for item in before] == [item.id for item in after[1:]]
        assert all(len(item.id) == 16 for item in before)

    def test_equal_rows_are_counted(self, checker):
        one, two, three = all_of(checker(), *[{"prompt": "A fox"}] * 3)
        assert (two.id, three.id) == (f"{one.id}-2", f"{one.id}-3")

    def test_another_request_is_another_id(self, checker):
        rows = [{}, {"seed": "1"}, {"images": "a.png"}, {"sample": "1"}, {"model": PRO}]
        items = all_of(checker(), *({"prompt": "A fox", **row} for row in rows))
        assert len({item.id for item in items}) == 5

    def test_one_that_somebody_gave_already(self, checker):
        made = identity_of(ImageRequest("A fox"))[:16]
        rows = all_of(checker(), {"id": made, "prompt": "An owl"}, {"prompt": "A fox"})
        assert reasons(*rows)[1].startswith(f"id='{made}' is also that of line 2")


class TestKeys:
    def test_one_of_a_row_s_own(self, check):
        assert check(key=" ein/größer.png ").key == "ein/größer.png"

    @pytest.mark.parametrize(
        ("key", "said"),
        [
            ("/a.png", "no slash at its start"),
            ("s3://shop/a.png", "is an address"),
            ("a/../b.png", "has a '.' or '..'"),
            (5, "key=5 is a number"),
            ("x" * 1025, "so shorten it"),
        ],
    )
    def test_one_that_no_store_takes(self, check, key, said):
        assert said in check(key=key).reason

    def test_two_rows_with_one_key(self, checker):
        keys = ("x/a.png", "x/b.png", "x/a.jpg", "x/a.png")
        rows = all_of(checker(), *({"id": key + str(n), "prompt": "p", "key": key} for n, key in enumerate(keys)))
        assert reasons(*rows) == ["", "", "", "key='x/a.png' is also that of line 2; give every image its own."]

    @pytest.mark.parametrize("key", ["img/a.png", "img/a.jpg", "img/a.webp"])
    @pytest.mark.parametrize("made_first", [True, False])
    def test_a_key_that_the_template_may_make_for_another_row(self, checker, key, made_first):
        made, own = {"id": "a", "prompt": "p"}, {"id": "b", "prompt": "p", "key": key}
        rows = all_of(checker(), *((made, own) if made_first else (own, made)))
        assert "is also that of line 2" in reasons(*rows)[1]

    def test_a_version_is_no_extension(self, checker):
        keys = ("shoe.1", "shoe.2")
        assert reasons(*all_of(checker(), *({"id": k, "prompt": "p", "key": k} for k in keys))) == ["", ""]

    def test_a_template_that_has_its_own_extension(self, checker):
        rows = all_of(
            checker("{name}.png"), {"id": "a", "prompt": "p"}, {"id": "b", "prompt": "p", "key": "a.jpg"},
            {"id": "c", "prompt": "p", "key": "a.png"},
        )  # fmt: skip
        assert reasons(*rows) == ["", "", "key='a.png' is also that of line 2; give every image its own."]

    def test_ids_that_make_one_key(self, checker):
        rows = all_of(checker(), {"id": "a/b", "prompt": "p"}, {"id": "a//b", "prompt": "p"})
        assert reasons(*rows) == ["", "key='img/a/b.png' is also that of line 2; give every image its own."]

    @pytest.mark.parametrize("template", ["{prefix}/{sha256}.{extension}", "{prefix}/{request_key}.{extension}"])
    def test_templates_of_the_bytes_and_the_request_never_clash(self, checker, template):
        rows = all_of(checker(template), {"id": "a", "prompt": "p"}, {"id": "b", "prompt": "p"})
        assert reasons(*rows) == ["", ""]

    def test_the_model_may_tell_keys_apart(self, checker):
        rows = ({"id": name, "prompt": "p", "model": model} for name, model in (("a", PRO), ("b/a", "m")))
        assert reasons(*all_of(checker("{model}/{name}.{extension}"), *rows)) == ["", ""]

    @pytest.mark.parametrize("name", ["results.jsonl", "_batch/plan/00000.jsonl", "_batch/x.png", "_stats.json"])
    def test_the_batch_s_own_documents_are_safe(self, check, name):
        assert "kept for the batch's own documents" in check(key=f"img/week-46/{name}").reason
        assert isinstance(check(id="b", key=f"img/week-47/{name}"), Item)


class TestVariants:
    @pytest.mark.parametrize(
        ("given", "names"),
        [
            ("thumb", ("thumb",)),
            ("thumb, web", ("thumb", "web")),
            ("web thumb,web", ("web", "thumb")),
            (["web"], ("web",)),
            ([], ()),
            ("none", ()),
            ("", ("thumb", "web")),
            (None, ("thumb", "web")),
        ],
    )
    def test_names_in_every_form(self, checker, given, names):
        one = checker(variants=BOTH)
        assert one.check(RawRow(2, {"id": "a", "prompt": "p", "variants": given})).variants == names

    def test_two_images_whose_variants_would_have_one_key_are_refused(self, checker):
        one = checker(variants=BOTH)
        assert isinstance(one.check(RawRow(2, {"id": "a", "prompt": "p", "key": "p/fox.png"})), Item)
        row = one.check(RawRow(3, {"id": "b", "prompt": "p", "key": "p/fox.jpg"}))
        assert (
            "its variant 'thumb' would have the key 'p/fox.thumb.webp', and so has that of line 2" in row.reason.lower()
        )
        assert isinstance(
            one.check(RawRow(4, {"id": "c", "prompt": "p", "key": "p/owl.jpg", "variants": "none"})), Item
        )

    @pytest.mark.parametrize("options", [{"variants": BOTH}, {"sidecars": True}])
    def test_a_key_that_leaves_no_room_is_refused(self, checker, options):
        row = checker(**options).check(RawRow(2, {"id": "a", "prompt": "p", "key": "k" * 1020}))
        assert isinstance(row, BadRow)
        assert isinstance(checker().check(RawRow(3, {"id": "b", "prompt": "p", "key": "j" * 1020})), Item)

    def test_a_row_without_the_column_gets_all(self, checker):
        assert checker(variants=BOTH).check(RawRow(2, {"prompt": "p"})).variants == ("thumb", "web")

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("thumbs", "the batch has no variant 'thumbs'; did you mean 'thumb'?"),
            ("large", "no variant 'large'; there are thumb, web."),
            (5, "variants=5 is a number; write names with spaces between them"),
            ([5], "variants=5 is a number"),
        ],
    )
    def test_others_are_refused(self, checker, given, said):
        row = checker(variants=BOTH).check(RawRow(2, {"id": "a", "prompt": "p", "variants": given}))
        assert said in row.reason


class TestCarried:
    def test_everything_else_as_it_is(self, check):
        item = check(color="red ", price=1.5, stock=3, new=True, note="", gone=None, rank=float("nan"))
        assert item.carried == {
            "color": "red ", "price": 1.5, "stock": 3, "new": True, "note": None, "gone": None, "rank": None,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ({"a": 1}, "column 'extra' holds an object; what is carried through are texts, numbers and booleans"),
            ([1], "column 'extra' holds a list"),
            (float("inf"), "column 'extra' holds inf"),
            ("x" * 1_000_001, "column 'extra' has 1,000,001 characters"),
        ],
    )
    def test_what_a_table_cannot_hold(self, check, value, said):
        assert said in check(extra=value).reason


class TestNames:
    def test_a_row_s_own_misspelt_field(self, check):
        assert "column 'aspect-ratio' is most likely 'aspect_ratio'" in check(**{"aspect-ratio": "16:9"}).reason

    def test_one_of_the_results(self, checker):
        one = checker(reserved=["status"])
        assert "rename it" in one.check(RawRow(2, {"prompt": "p", "Status": "x"})).reason
        with pytest.raises(InvalidRequestError, match="rename it"):
            one.check_header(("prompt", "Status"))

    def test_a_header_without_a_prompt_needs_a_default(self, checker):
        with pytest.raises(InvalidRequestError, match="no column 'prompt'"):
            checker().check_header(("id", "images"))
        checker(defaults={"prompt": "p"}).check_header(("id", "images"))


class TestIdentity:
    def test_equal_for_equal_requests_however_they_are_written(self):
        assert identity_of(ImageRequest("p", temperature=1)) == identity_of(ImageRequest("p", temperature=1.0))
        assert identity_of(ImageRequest("p", images=("a.png",))) != identity_of(ImageRequest("p", images=("b.png",)))
        assert identity_of(ImageRequest("p", sample=1)) != identity_of(ImageRequest("p"))
