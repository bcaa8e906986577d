import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import get_args

import pytest
from prefect.results import ResultRecord
from pydantic import TypeAdapter

from n1n_prefect import errors, images
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import (
    OUTCOME_STATUSES,
    GeneratedImage,
    ImageOutcome,
    ImageRequest,
    ImageSpec,
    OutcomeStatus,
    Spending,
    UploadedImage,
    Usage,
    as_request,
    excerpt,
    ratio_of,
)
from n1n_prefect.paid_call import PaidCall
from n1n_prefect.sources import LoadedRequest
from n1n_prefect.steps import Describe, Forget, Read, Recall, Send, Write, run
from tests.examples import KEY, SHA256, generated, uploaded

STORED = Path(__file__).parent / "samples/stored"
VALUES = [
    generated(usage=Usage(1, 2, 3, 4, 5, 15), text="Füchse 🦊", aspect_ratio="16:9"),
    uploaded(created=False, original=generated()),
    ImageOutcome("sku-1", "invalid", "too small", generated(), uploaded(), "yes", 0.039, 2),
    ImageRequest("a red fox", ("in.png", "s3://shop/a.png", generated(), uploaded(original=generated())), seed=7),
    ImageSpec(aspect_ratio="16:9", media_types=("image/png",)),
    Spending("fail", 0, 0, 30, 1.5),
]


def named(value):
    return type(value).__name__


class TestEveryValue:
    @pytest.mark.parametrize("value", VALUES, ids=named)
    def test_survives_json(self, value):
        adapter = TypeAdapter(type(value))
        assert adapter.validate_json(adapter.dump_json(value)) == value
        assert adapter.validate_python(json.loads(adapter.dump_json(value))) == value

    @pytest.mark.parametrize("value", VALUES, ids=named)
    def test_survives_pickling_and_copying(self, value):
        assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == dataclasses.replace(value) == value

    @pytest.mark.parametrize("value", VALUES, ids=named)
    def test_cannot_be_changed(self, value):
        field = dataclasses.fields(value)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field, "other")

    @pytest.mark.parametrize("value", VALUES, ids=named)
    def test_is_one_value_and_not_a_list_to_map(self, value):
        with pytest.raises(TypeError, match="not iterable"):
            iter(value)

    @pytest.mark.parametrize("kind", [type(value) for value in VALUES] + [Usage], ids=lambda kind: kind.__name__)
    def test_each_field_is_explained(self, kind):
        source = Path(images.__file__).read_text("utf-8").partition(f"\nclass {kind.__name__}")[2]
        for field in dataclasses.fields(kind):
            line = next(line for line in source.splitlines() if line.startswith(f"    {field.name}: "))
            assert source.partition(line + "\n")[2].startswith('    """'), field.name


class TestGeneratedImage:
    def test_new_fields_have_defaults(self):
        assert [f.name for f in dataclasses.fields(GeneratedImage) if f.default is dataclasses.MISSING] == [
            "uri", "sha256", "media_type", "width", "height", "size_bytes", "model", "request_key",
        ]  # fmt: skip

    def test_is_small_whatever_was_asked(self):
        big = generated(text="t" * 200, prompt_excerpt="p" * 80, model="m" * 100, uri="file:///" + "u" * 300)
        assert len(pickle.dumps(big)) < 2000


class TestUploadedImage:
    def test_has_an_address(self):
        assert uploaded(key="a b/ü.png").uri == "s3://shop/a b/ü.png"


class TestImageRequest:
    def test_of_words_alone(self):
        assert ImageRequest("a red fox") == ImageRequest(prompt="a red fox", images=(), model=images.DEFAULT_MODEL)

    def test_a_misspelt_field_is_refused(self):
        with pytest.raises(InvalidRequestError, match="aspect_ration"):
            ImageRequest("x", aspect_ration="16:9")

    def test_no_prompt_is_refused(self):
        with pytest.raises(InvalidRequestError, match="prompt"):
            ImageRequest()

    @pytest.mark.parametrize("prompt", [None, 7, ["a", "b"], {"text": "a"}, b"\xff"])
    def test_a_prompt_is_text(self, prompt):
        with pytest.raises(InvalidRequestError, match="prompt"):
            ImageRequest(prompt)

    def test_a_long_wrong_value_is_cut_in_the_error(self):
        with pytest.raises(InvalidRequestError) as caught:
            ImageRequest("x", images="y" * 5000)
        assert len(str(caught.value)) < 1000

    def test_bytes_become_a_data_uri_in_json_alone(self):
        request = ImageRequest("x", (b"\x89PNG",))
        assert TypeAdapter(ImageRequest).dump_python(request)["images"] == (b"\x89PNG",)
        assert TypeAdapter(ImageRequest).dump_python(request, mode="json")["images"] == [
            "data:application/octet-stream;base64,iVBORw=="
        ]

    def test_a_path_stays_a_path_and_an_address_an_address(self):
        given = ("s3://shop/a.png", Path("a.png"), b"\x89PNG", "data:image/png;base64,iVBORw==")
        assert ImageRequest("x", given).images == given

    def test_earlier_results_are_told_apart_in_json(self):
        request = ImageRequest("x", (generated(), uploaded(original=generated())))
        found = TypeAdapter(ImageRequest).validate_json(TypeAdapter(ImageRequest).dump_json(request))
        assert [type(image) for image in found.images] == [GeneratedImage, UploadedImage]


class TestImageSpec:
    def test_without_rules_everything_is_left_open_but_blankness(self):
        spec = ImageSpec()
        assert {name: value for name, value in dataclasses.asdict(spec).items() if value} == {
            "tolerance": 0.05,
            "reject_blank": True,
        }

    @pytest.mark.parametrize(
        "rules",
        [
            {"min_edge": 2, "max_edge": 1},
            {"min_pixels": 2, "max_pixels": 1},
            {"width": 100, "height": 100, "aspect_ratio": "16:9"},
            {"width": 100, "height": 100, "max_pixels": 9_999},
            {"width": 100, "height": 100, "min_pixels": 10_001},
            {"width": 100, "max_edge": 99},
            {"height": 100, "min_edge": 101},
            {"aspect_ratio": "sixteen:nine"},
            {"aspect_ratio": "0:1"},
            {"aspect_ratio": "-1:1"},
            {"aspect_ratio": "nan:1"},
            {"aspect_ratio": "inf:1"},
            {"width": 0},
            {"width": -1},
            {"max_bytes": 0},
            {"tolerance": 1.0},
            {"tolerance": -0.1},
            {"witdh": 100},
        ],
    )
    def test_one_that_no_image_can_keep_is_refused_at_once(self, rules):
        with pytest.raises(InvalidRequestError):
            ImageSpec(**rules)

    @pytest.mark.parametrize(
        "rules",
        [
            {"min_edge": 1, "max_edge": 1},
            {"width": 1376, "height": 768, "aspect_ratio": "16:9"},
            {"width": 100, "height": 100, "min_pixels": 10_000, "max_pixels": 10_000},
            {"width": 100, "min_edge": 100, "max_edge": 100},
        ],
    )
    def test_one_that_an_image_can_just_keep_is_taken(self, rules):
        assert ImageSpec(**rules)

    def test_made_for_an_image_it_is_that_of_its_request(self):
        request = ImageRequest("x", model="gemini-3-pro-image", aspect_ratio="16:9", image_size="2K")
        image = generated(model="gemini-3-pro-image", aspect_ratio="16:9", image_size="2K")
        assert ImageSpec.for_request(image) == ImageSpec.for_request(request)


class TestImageOutcome:
    def test_the_statuses_are_a_closed_set(self):
        assert get_args(OutcomeStatus) == OUTCOME_STATUSES
        with pytest.raises(ValueError, match="already_there"):
            ImageOutcome("x", "done")

    @pytest.mark.parametrize("status", OUTCOME_STATUSES)
    def test_ok_is_what_is_in_s3(self, status):
        assert ImageOutcome("x", status).ok is (status in ("uploaded", "already_there"))


class TestSpending:
    def test_defaults_are_those_of_the_documentation(self):
        assert Spending() == Spending("retry", 1, 1, 600, None)

    @pytest.mark.parametrize(
        "rules",
        [
            {"on_unknown_outcome": "ask"},
            {"unknown_retries": -1},
            {"no_image_retries": -1},
            {"max_wait_seconds": -1},
            {"max_usd_per_run": -0.01},
            {"max_usd": 1},
        ],
    )
    def test_nonsense_is_refused(self, rules):
        with pytest.raises(InvalidRequestError, match=next(iter(rules))):
            Spending(**rules)


class TestExcerpt:
    @pytest.mark.parametrize(
        ("text", "seen"),
        [
            ("", ""),
            ("short", "short"),
            ("  two \n lines\t", "two lines"),
            ("x" * 10, "x" * 10),
            ("x" * 11, "x" * 9 + "…"),
            ("🦊" * 11, "🦊" * 9 + "…"),
        ],
    )
    def test_is_one_line_of_so_many_characters(self, text, seen):
        assert excerpt(text, 10) == seen

    def test_a_long_text_says_that_it_was_cut_whatever_its_spaces(self):
        seen = excerpt("a" + " " * 100 + "b" * 100, 10)
        assert len(seen) <= 10
        assert seen.endswith("…")


class TestConsoleUrl:
    @pytest.mark.parametrize(
        ("region", "host"),
        [
            ("eu-central-1", "eu-central-1.console.aws.amazon.com"),
            ("cn-north-1", "cn-north-1.console.amazonaws.cn"),
            ("us-gov-west-1", "console.amazonaws-us-gov.com"),
        ],
    )
    def test_is_that_of_the_region(self, region, host):
        url = uploaded(region=region).console_url
        assert url == f"https://{host}/s3/object/shop?region={region}&prefix=products%2Ffox.png"

    def test_is_nothing_for_other_stores(self):
        assert uploaded().console_url == ""


class TestRatioOf:
    @pytest.mark.parametrize(("text", "ratio"), [("1:1", 1), ("16:9", 16 / 9), ("1.91:1", 1.91), (" 4 : 3 ", 4 / 3)])
    def test_is_width_by_height(self, text, ratio):
        assert ratio_of(text) == pytest.approx(ratio)

    @pytest.mark.parametrize("text", ["", "1", ":", "1:", ":1", "1:0", "0:1", "-1:1", "1x1", "1:1:1", "nan:1", "1:inf"])
    def test_or_is_refused(self, text):
        with pytest.raises(InvalidRequestError, match="width:height"):
            ratio_of(text)


class TestAsRequest:
    def test_arguments_make_one(self):
        assert as_request("a fox", ["a.png"], seed=7) == ImageRequest("a fox", ("a.png",), seed=7)

    def test_a_whole_one_is_taken_as_it_is(self):
        request = ImageRequest("a fox", ("a.png",), seed=7)
        assert as_request(request, seed=None, model=images.DEFAULT_MODEL) is request

    def test_images_may_join_one_that_has_none(self):
        assert as_request(ImageRequest("a fox", seed=7), ["a.png"]) == ImageRequest("a fox", ("a.png",), seed=7)

    @pytest.mark.parametrize("twice", [{"seed": 8}, {"images": ["b.png"]}, {"model": "other"}, {"sample": 1}])
    def test_what_is_said_in_two_places_is_refused(self, twice):
        with pytest.raises(InvalidRequestError, match=f"{next(iter(twice))}.*one place"):
            as_request(ImageRequest("a fox", ("a.png",), seed=7), **twice)

    @pytest.mark.parametrize("prompt", [None, 7, ["a", "b"], ("a",), {"prompt": "a"}, b"a fox", Path("a")])
    def test_anything_else_is_refused_with_what_to_do(self, prompt):
        with pytest.raises(InvalidRequestError, match=r"\.map\(prompts\)"):
            as_request(prompt)


def what_was_stored_of(seen, stored):
    """The value without the fields that came later, however deep."""
    if isinstance(stored, list):
        return [what_was_stored_of(*pair) for pair in zip(seen, stored, strict=True)]
    if not isinstance(stored, dict):
        return seen
    return {field: what_was_stored_of(seen[field], value) for field, value in stored.items()}


class TestStoredByThePreviousRelease:
    """What is stored must stay readable; a file here is added by a release and never changed."""

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("generated_image", GeneratedImage),
            ("uploaded_image", UploadedImage),
            ("image_outcome", ImageOutcome),
            ("image_request", ImageRequest),
            ("image_spec", ImageSpec),
        ],
    )
    def test_values_are_read_with_every_field(self, name, kind):
        stored = json.loads((STORED / f"{name}.json").read_text("utf-8"))
        value = TypeAdapter(kind).validate_python(stored)
        seen = TypeAdapter(kind).dump_python(value, mode="json")
        assert what_was_stored_of(seen, stored) == stored

    @pytest.mark.parametrize("name", ["generated_image", "uploaded_image", "image_outcome"])
    def test_results_that_prefect_kept_are_what_they_were(self, name):
        record = ResultRecord.deserialize((STORED / f"prefect_result_{name}.json").read_bytes())
        stored = json.loads((STORED / f"{name}.json").read_text("utf-8"))
        assert TypeAdapter(type(record.result)).validate_python(stored) == record.result

    def test_a_value_of_a_later_release_is_read_without_what_is_new(self):
        stored = json.loads((STORED / "generated_image.json").read_text("utf-8"))
        image = TypeAdapter(GeneratedImage).validate_python({**stored, "mood": "cheerful"})
        assert image.sha256 == SHA256

    def replay(self, name, **spending):
        """What the sequence makes of a stored journal, and whether it paid."""
        records = json.loads((STORED / f"journal-{name}.json").read_text("utf-8"))
        paid = []

        def do(step):
            match step:
                case Read(key):
                    record = records.get(key.rpartition("/")[2])
                    return record and json.dumps(record).encode()
                case Send():
                    paid.append(step)
                    raise errors.GatewayError("not reached")
                case Write() | Recall() | Forget() | Describe():
                    return None

        try:
            result = run(PaidCall(LoadedRequest(ImageRequest("x")), KEY, Spending(**spending)).steps(), do)
        except errors.N1nError as error:
            result = error
        return result, bool(paid)

    def test_a_journal_with_an_image_gives_it_and_pays_nothing(self):
        image, paid = self.replay("image")
        assert (image.reused, image.width, image.usage.output_image_tokens, paid) == (True, 2, 1120, False)
        assert image.estimated_cost_usd == 0.138472

    def test_a_refusal_is_replayed(self):
        error, paid = self.replay("refused")
        assert (type(error), error.model_text, paid) == (errors.RefusedError, "The prompt is not allowed.", False)

    def test_two_answers_without_an_image_are_enough(self):
        error, paid = self.replay("no-image")
        assert (type(error), error.finish_reason, paid) == (errors.NoImageError, "NO_IMAGE", False)

    @pytest.mark.parametrize("name", ["unknown", "malformed"])
    def test_an_outcome_that_is_not_known_follows_the_spending(self, name):
        assert self.replay(name)[1]
        error, paid = self.replay(name, on_unknown_outcome="fail")
        assert isinstance(error, (errors.OutcomeUnknownError, errors.MalformedReplyError))
        assert not paid

    def test_a_failure_that_cost_nothing_is_tried_again(self):
        assert self.replay("failed")[1]
