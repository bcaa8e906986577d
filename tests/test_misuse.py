"""What a hurried user does to the tasks: named, and before anything is paid."""

import json
from dataclasses import replace

import pytest

from n1n_prefect import (
    GeneratedImage,
    ImageSpec,
    InvalidRequestError,
    PaidOnce,
    Price,
    StagingError,
    gather_outcomes,
    generate_image,
    image_to_s3,
    upload_image,
)
from n1n_prefect.errors import AuthenticationError, masked
from n1n_prefect.staging import BlockStorage, read_original

IMAGE = GeneratedImage("", "0" * 64, "image/png", 1, 1, 1, "m", "k")


def item(credentials, destination, **options):
    return image_to_s3.fn("a red fox", credentials=credentials, destination=destination, **options)


class TestBeforePaying:
    @pytest.mark.parametrize(
        "options",
        [
            {"spec": "16:9"},
            {"spec": {"width": 5}},
            {"metadata": "x"},
            {"metadata": {5: "x"}},
            {"metadata": {"sha256": "x"}},
            {"metadata": {"a b\n": "x"}},
            {"name": 12345},
            {"key": 5},
            {"if_exists": "overwrite"},
            {"aspect_ratio": "16:9", "spec": ImageSpec(aspect_ratio="1:1")},
            {"sample": -1},
        ],
        ids=str,
    )
    def test_an_items_mistake_is_an_outcome_and_costs_nothing(self, n1n_gateway, n1n_credentials, s3_location, options):
        outcome = item(n1n_credentials, s3_location, **options)
        assert (outcome.status, outcome.charged) == ("failed", "no")
        assert outcome.reason
        assert n1n_gateway.ledger.calls == []

    @pytest.mark.parametrize(
        "fields",
        [
            {"media_types": ("png",)},
            {"min_edge": 1000, "max_pixels": 10},
            {"max_edge": 10, "min_pixels": 10**6},
            {"aspect_ratio": ""},
        ],
        ids=str,
    )
    def test_a_spec_that_no_image_can_meet_is_refused_when_it_is_made(self, fields):
        with pytest.raises(InvalidRequestError):
            ImageSpec(**fields)

    @pytest.mark.parametrize("fields", [{"image": -1}, {"imgae": 1}], ids=str)
    def test_a_price_that_is_none(self, fields):
        with pytest.raises(InvalidRequestError):
            Price(**fields)

    def test_a_flat_price_needs_no_other(self):
        assert Price(per_image=0.02).per_image == 0.02

    def test_a_lock_manager_that_is_none_is_refused(self):
        with pytest.raises(InvalidRequestError, match="lock_manager"):
            PaidOnce(lock_manager=object())

    @pytest.mark.parametrize("options", [{"name": 5}, {"metadata": "x"}, {"metadata": {5: "x"}}], ids=str)
    def test_an_upload_is_refused_by_name(self, s3_location, options):
        with pytest.raises(InvalidRequestError):
            upload_image.fn(
                GeneratedImage("", "0" * 64, "image/png", 1, 1, 1, "m", "k"), destination=s3_location, **options
            )


class TestAfterPaying:
    def test_a_later_take_that_fails_does_not_hide_the_first_that_was_paid(
        self, n1n_gateway, n1n_credentials, s3_location
    ):
        n1n_gateway.faults.plan(["wrong_size", "quota_exhausted"])
        outcome = item(n1n_credentials, s3_location, aspect_ratio="16:9", on_invalid="regenerate")
        assert (outcome.status, outcome.charged) == ("failed", "yes")
        assert outcome.image is not None
        assert outcome.estimated_cost_usd > 0

    def test_whatever_is_not_ours_may_have_cost_something(self):
        class MuteError(Exception):
            def __str__(self):
                raise RuntimeError

        rows = gather_outcomes(
            [TimeoutError("late"), ValueError("Authorization: Bearer sk-abcdefgh1234"), MuteError(), None]
        )
        assert [row.charged for row in rows] == ["unknown"] * 4
        assert "abcdefgh" not in rows[1].reason

    @pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "n1n/../x", ""])
    def test_a_reference_that_leads_elsewhere_is_refused_for_good(self, key):
        with pytest.raises(StagingError) as caught:
            read_original(replace(IMAGE, storage_key=key))
        assert not caught.value.is_transient


class TestSecrets:
    def test_a_block_that_map_took_apart_is_named_without_its_key(self):
        with pytest.raises(InvalidRequestError) as caught:
            generate_image.fn("a fox", credentials=("api_key", "hush-hush"))
        assert "unmapped(credentials)" in str(caught.value)
        assert "hush" not in str(caught.value)

    def test_every_word_of_an_error_is_masked(self):
        error = AuthenticationError("bad hush", "id-hush", code="hush", finish_reason="hush", model_text="hush")
        masked(error, "hush")
        assert "hush" not in json.dumps(error.__dict__, default=str) + str(error) + repr(error.args)


class Denying:
    """A store that answers "denied" for what is not there, as S3 does without ListBucket."""

    def __init__(self):
        self.files, self.is_open = {}, True

    def write_path(self, path, content):
        self.files[path] = content

    def read_path(self, path):
        if not self.is_open or path not in self.files:
            raise PermissionError("AccessDenied")
        return self.files[path]


class TestDenied:
    def test_a_lost_permission_is_not_taken_for_absence(self):
        store = Denying()
        storage = BlockStorage(store)
        storage.write("n1n/journal/k/0.sent", b"{}")
        assert storage.read("n1n/journal/other/0.sent") is None
        store.is_open = False
        with pytest.raises(StagingError):
            storage.read("n1n/journal/k/0.sent")
