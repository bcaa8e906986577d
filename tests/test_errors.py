import copy
import pickle

import cloudpickle
import pytest

from n1n_prefect import errors
from n1n_prefect.errors import (
    ImageValidationError,
    N1nError,
    Violation,
    masked,
)
from tests.examples import KEY, generated

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, N1nError)]
FIELDS = {
    "status_code": 429,
    "code": "rate_limit",
    "charged": "unknown",
    "is_transient": True,
    "retry_after_seconds": 12.5,
    "finish_reason": "SAFETY",
    "model_text": "I would rather not.",
}
SECRET = "sk-9f8e7d6c5b4a39281706"

# What the documentation says of each class: whether it is worth a retry, and whether it cost money.
PROMISED = {
    "N1nError": (False, "no"),
    "InvalidRequestError": (False, "no"),
    "AuthenticationError": (False, "no"),
    "PermissionDeniedError": (False, "no"),
    "QuotaError": (False, "no"),
    "BudgetExceededError": (False, "no"),
    "ModelNotAvailableError": (False, "no"),
    "RateLimitError": (True, "no"),
    "GatewayError": (True, "no"),
    "OutcomeUnknownError": (True, "unknown"),
    "RefusedError": (False, "unknown"),
    "NoImageError": (True, "unknown"),
    "MalformedReplyError": (True, "unknown"),
    "ImageValidationError": (False, "yes"),
    "ReviewTimeoutError": (False, "yes"),
    "SourceError": (False, "no"),
    "StagingError": (True, "no"),
    "JournalUnreadableError": (True, "no"),
    "UploadError": (False, "yes"),
}


def copies(error):
    return [
        pickle.loads(pickle.dumps(error)),
        pickle.loads(pickle.dumps(error, protocol=2)),
        cloudpickle.loads(cloudpickle.dumps(error)),
        copy.copy(error),
        copy.deepcopy(error),
    ]


def full(kind):
    """An error of this class with every field set to something unusual."""
    violations = [Violation("width", "1024 pixels", "1023 pixels")]
    error = (
        kind("What happened.", "req-1", violations=violations)
        if kind is ImageValidationError
        else kind("What happened.", "req-1", **FIELDS)
    )
    error.request_key = KEY
    error.image = generated()
    return error


class TestEveryClass:
    def test_none_is_missing_from_the_table(self):
        assert {kind.__name__ for kind in CLASSES} == set(PROMISED)

    @pytest.mark.parametrize("kind", CLASSES)
    def test_is_transient_and_charged_as_promised(self, kind):
        error = kind("x")
        assert (error.is_transient, error.charged) == PROMISED[kind.__name__]

    @pytest.mark.parametrize("kind", CLASSES)
    def test_is_drawn_in_the_tree(self, kind):
        assert kind.__name__ in errors.__doc__

    @pytest.mark.parametrize("kind", CLASSES)
    def test_can_be_made_of_nothing_and_of_positions(self, kind):
        assert str(kind()) == ""
        error = kind("What happened.", "req-1")
        assert (error.message, error.request_id, error.args) == ("What happened.", "req-1", ("What happened.",))
        assert str(error) == "What happened. (request id: req-1)"

    @pytest.mark.parametrize("kind", CLASSES)
    def test_survives_pickling_with_all_its_fields(self, kind):
        error = full(kind)
        for other in copies(error):
            assert type(other) is kind
            assert vars(other) == vars(error)
            assert str(other) == str(error)

    @pytest.mark.parametrize("kind", CLASSES)
    def test_what_is_set_later_survives_too(self, kind):
        error = kind("x")
        error.is_transient = not error.is_transient
        assert pickle.loads(pickle.dumps(error)).is_transient is error.is_transient

    @pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not ImageValidationError])
    def test_what_is_known_better_wins_over_the_class(self, kind):
        error = kind("x", charged="yes", is_transient=False)
        assert (error.charged, error.is_transient) == ("yes", False)
        assert kind("x", is_transient=True).is_transient


class TestTheTree:
    def test_an_invalid_request_is_a_value_error(self):
        with pytest.raises(ValueError, match="3:1"):
            raise errors.InvalidRequestError("aspect_ratio='3:1'")

    def test_an_unreadable_journal_is_a_staging_error(self):
        assert issubclass(errors.JournalUnreadableError, errors.StagingError)

    def test_nothing_else_is_a_kind_of_anything_else(self):
        direct = {kind for kind in CLASSES if kind.__bases__[0] is N1nError}
        assert {kind.__name__ for kind in CLASSES} - {kind.__name__ for kind in direct} == {
            "N1nError",
            "JournalUnreadableError",
        }

    def test_one_error_does_not_change_the_class(self):
        errors.RateLimitError("x").is_transient = False
        assert errors.RateLimitError("y").is_transient


class TestViolations:
    def test_say_rule_expected_and_actual(self):
        assert str(Violation("width", "1024 pixels", "1023 pixels")) == "width: expected 1024 pixels, got 1023 pixels"

    def test_are_not_shared_between_errors(self):
        ImageValidationError("x").violations.append(Violation("a", "b", "c"))
        assert ImageValidationError("y").violations == []


class TestMasked:
    @pytest.mark.parametrize("kind", CLASSES)
    def test_a_masked_error_shows_its_key_nowhere(self, kind):
        error = full(kind)
        error.message = f"Key {SECRET} and hunter2"
        error.args = (error.message,)
        error.model_text = f"You said {SECRET} and hunter2"
        masked(error, "hunter2")
        said = f"{error} {error!r} {error.args} {vars(error)} ".encode() + pickle.dumps(error)
        assert SECRET.encode() not in said
        assert b"hunter2" not in said


class TestChargeInWords:
    """What a task's state says of money: once, and so that it can be read back."""

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (errors.QuotaError("The balance is used up."), "Not charged."),
            (errors.RefusedError("The model refused."), "It may have been charged."),
            (errors.UploadError("There is no bucket."), "Charged."),
            (errors.GatewayError("It was not reached; nothing was charged."), ""),
            (errors.JournalUnreadableError("It cannot be read. Nothing was spent."), ""),
            (errors.OutcomeUnknownError("It was lost, so it may have been billed."), ""),
            # What a message says of something else does not count.
            (errors.RefusedError("Known from before, nothing was paid now: refused."), "It may have been charged."),
            (errors.QuotaError("'may have been billed' says the gateway"), "Not charged."),
            (errors.RefusedError("nothing was spent, may have been billed"), "It may have been charged."),
        ],
    )
    def test_says_what_the_message_does_not(self, error, said):
        assert errors.charge_in_words(error) == said

    def test_an_image_that_is_kept(self):
        error = errors.UploadError("There is no bucket.")
        error.image = generated()
        assert errors.charge_in_words(error) == f"Charged; the image is kept at {generated().uri}"
        error.image = generated(reused=True)
        assert errors.charge_in_words(error) == f"Paid for earlier; the image is kept at {generated().uri}"

    def test_an_image_that_may_not_be_kept_is_not_said_to_be(self):
        error = errors.StagingError("The original is gone.")
        error.image = generated()
        assert errors.charge_in_words(error) == "Charged."
        error.image = generated(reused=True)
        error.charge = errors.charge_in_words(error)
        assert error.charge == "Paid for earlier."
        assert errors.charge_read(str(error)) == ("The original is gone.", "yes")

    def test_a_model_that_says_the_same_does_not_cut_the_reason(self):
        error = errors.ImageValidationError("The model said: Charged; the image is kept at sea. It is too small.")
        error.image = generated(uri="file:///a folder/fox.png")
        error.charge = errors.charge_in_words(error)
        assert errors.charge_read(str(error)) == (error.message, "yes")
        error.charge = "Charged."
        assert errors.charge_read(str(error)) == (error.message, "yes")

    def test_an_earlier_call_that_was_lost(self):
        error = errors.RateLimitError("Too many calls.")
        error.possible_duplicates = 1
        assert errors.charge_in_words(error) == "It may have been charged."

    def test_is_no_part_of_an_error_that_no_task_reported(self):
        assert str(errors.InvalidRequestError("width=0")) == "width=0"

    @pytest.mark.parametrize("charged", ["no", "yes", "unknown"])
    @pytest.mark.parametrize(
        "message",
        ["What happened.", "Nothing was spent.", "It may have been billed.", "Charged.", "It says: Not charged.", ""],
    )
    @pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not ImageValidationError])
    def test_is_read_back(self, kind, message, charged):
        error = kind(message, charged=charged)
        error.charge = errors.charge_in_words(error)
        assert errors.charge_read(str(error)) == (message, charged)

    def test_a_kept_image_is_read_back_as_a_charge(self):
        error = errors.UploadError("There is no bucket.", "req-1")
        error.image = generated()
        error.charge = errors.charge_in_words(error)
        assert errors.charge_read(str(error)) == ("There is no bucket. (request id: req-1)", "yes")

    def test_of_words_that_say_nothing_nothing_is_read(self):
        assert errors.charge_read("boom") == ("boom", None)


class TestWordsOf:
    def test_are_short_and_without_secrets_and_charge(self):
        error = N1nError(f"Key {SECRET} " + "🦊" * 500)
        error.charge = "Not charged."
        words = errors.words_of(error, 100)
        assert len(words.encode()) <= 100
        assert SECRET not in words
        assert "Not charged." not in errors.words_of(N1nError("x"))
