import pytest

from n1n_prefect.batch.columns import KNOWN_COLUMNS, check_header, wrong_names
from n1n_prefect.errors import InvalidRequestError

RESERVED = frozenset({"status", "reason"})


def check(*names, defaults=None):
    check_header(names, reserved=RESERVED, defaults=defaults or {})


class TestNames:
    def test_all_of_ours_and_any_of_another_s(self):
        names = tuple(name for name in KNOWN_COLUMNS if name != "image")
        assert wrong_names((*names, "color", "size", "mode", "sku", "caption", "image_url", "größe"), RESERVED) == ""

    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("promt", "prompt"),
            ("Prompt", "prompt"),
            ("prompts", "prompt"),
            ("aspect-ratio", "aspect_ratio"),
            ("Aspect Ratio", "aspect_ratio"),
            ("ID", "id"),
            (" key", "key"),
            ("imgages", "images"),
            ("varaints", "variants"),
            ("modle", "model"),
        ],
    )
    def test_a_misspelt_one_is_named_with_the_one_that_is_meant(self, name, near):
        assert f"column {name!r} is most likely {near!r}" in wrong_names(("prompt", name), RESERVED)

    @pytest.mark.parametrize("name", ["status", "Reason", "STATUS"])
    def test_one_of_the_results_is_to_be_renamed(self, name):
        assert f"rename it, for instance to 'my_{name}'" in wrong_names(("prompt", name), RESERVED)

    def test_two_of_one_name(self):
        assert wrong_names(("prompt", "a", "a"), RESERVED) == "there is more than one column 'a'; rename or remove one"

    def test_image_and_images(self):
        assert "keep one" in wrong_names(("prompt", "image", "images"), RESERVED)

    @pytest.mark.parametrize("name", ["", "  "])
    def test_one_without_a_name_is_counted(self, name):
        assert wrong_names(("prompt", "b", name), RESERVED).startswith("column 3 has no name")

    def test_far_too_many(self):
        assert "201 columns" in wrong_names(tuple(f"c{number}" for number in range(201)), RESERVED)
        assert not wrong_names(tuple(f"c{number}" for number in range(200)), RESERVED)


class TestHeader:
    def test_a_right_one(self):
        check("id", "prompt", "color")

    def test_data_in_its_place(self):
        with pytest.raises(InvalidRequestError, match=r"has 'sku-1', 'A red fox', none of which is known; write a"):
            check("sku-1", "A red fox")

    def test_no_prompt(self):
        with pytest.raises(InvalidRequestError, match=r"no column 'prompt' among 'id', 'color'; add it"):
            check("id", "color")

    def test_a_prompt_for_all_rows_will_do(self):
        check("id", "images", defaults={"prompt": "Make it winter"})

    def test_a_misspelt_name(self):
        with pytest.raises(InvalidRequestError, match=r"'promt' is most likely 'prompt'"):
            check("id", "promt")
