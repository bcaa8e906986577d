import inspect
import subprocess
import sys
import types

import pytest

import n1n_prefect

PROMISED = """
    AsyncN1nClient AuthenticationError BudgetExceededError CostEstimate GatewayError GeneratedImage HintedDelays
    ImageOutcome ImageRequest ImageSource ImageSpec ImageValidationError InvalidRequestError JournalUnreadableError
    MalformedReplyError ModelNotAvailableError N1nClient N1nCredentials N1nError N1nSettings NoImageError
    OutcomeUnknownError PaidOnce PermissionDeniedError Price QuotaError RateLimitError RefusedError S3Location
    SourceError Spending StagingError UploadError UploadedImage Usage Violation acreate_contact_sheet_artifact
    aedit_image agenerate_image aimage_to_s3 aupload_image avalidate_image contact_sheet_markdown
    create_contact_sheet_artifact edit_image estimate_cost final_state gather_outcomes generate_image image_to_s3
    upload_image validate_image Review ReviewTimeoutError ReviewedImage adiscard_image areview_images check_review
    discard_image review_deadline_automation review_images Variant DerivedImage derive_image
    aderive_image
"""


class TestTheList:
    def test_is_sorted_and_without_repetition(self):
        assert n1n_prefect.__all__ == sorted(set(n1n_prefect.__all__))

    def test_holds_every_public_name_and_no_other(self):
        public = {
            name
            for name, value in vars(n1n_prefect).items()
            if not name.startswith("_") and not isinstance(value, types.ModuleType)
        }
        assert public | {"__version__"} == set(n1n_prefect.__all__)

    def test_no_promised_name_is_missing(self):
        assert set(PROMISED.split()) <= set(n1n_prefect.__all__)

    @pytest.mark.parametrize("name", n1n_prefect.__all__)
    def test_each_is_ours_and_explained(self, name):
        value = getattr(n1n_prefect, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__module__.startswith("n1n_prefect.")
            assert value.__doc__

    def test_every_error_is_there(self):
        from n1n_prefect import errors

        kinds = {name for name, value in vars(errors).items() if isinstance(value, type) and name.endswith("Error")}
        assert kinds <= set(n1n_prefect.__all__)


def test_importing_is_light_and_starts_nothing():
    heavy = ["PIL", "boto3", "botocore", "prefect_aws", "prefect.server.api.server", "pytest", "moto"]
    code = f"import sys, n1n_prefect; print([name for name in {heavy!r} if name in sys.modules])"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
