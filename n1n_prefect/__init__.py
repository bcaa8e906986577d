"""Prefect tasks and blocks for the image models behind the n1n gateway.

Generate or edit images, check them, and put them into S3, in a pipeline that nobody
watches: paid once, never lost, and with the reason where an image did not come.
"""

from n1n_prefect.__about__ import __version__
from n1n_prefect.approval import areview_images, check_review, review_deadline_automation, review_images
from n1n_prefect.artifacts import acreate_contact_sheet_artifact, create_contact_sheet_artifact
from n1n_prefect.blocks import N1nCredentials, S3Location
from n1n_prefect.client import AsyncN1nClient, N1nClient
from n1n_prefect.contact_sheet import contact_sheet_markdown
from n1n_prefect.deriving import DerivedImage, aderive_image, derive_image
from n1n_prefect.errors import (
    AuthenticationError,
    BudgetExceededError,
    GatewayError,
    ImageValidationError,
    InvalidRequestError,
    JournalUnreadableError,
    MalformedReplyError,
    ModelNotAvailableError,
    N1nError,
    NoImageError,
    OutcomeUnknownError,
    PermissionDeniedError,
    QuotaError,
    RateLimitError,
    RefusedError,
    ReviewTimeoutError,
    SourceError,
    StagingError,
    UploadError,
    Violation,
)
from n1n_prefect.images import (
    GeneratedImage,
    ImageOutcome,
    ImageRequest,
    ImageSource,
    ImageSpec,
    Spending,
    UploadedImage,
    Usage,
)
from n1n_prefect.outcomes import final_state, gather_outcomes
from n1n_prefect.policies import HintedDelays, PaidOnce
from n1n_prefect.pricing import CostEstimate, Price, estimate_cost
from n1n_prefect.reviews import Review, ReviewedImage
from n1n_prefect.settings import N1nSettings
from n1n_prefect.tasks import (
    adiscard_image,
    aedit_image,
    agenerate_image,
    aimage_to_s3,
    aupload_image,
    avalidate_image,
    discard_image,
    edit_image,
    generate_image,
    image_to_s3,
    upload_image,
    validate_image,
)
from n1n_prefect.variants import Variant

__all__ = [
    "AsyncN1nClient",
    "AuthenticationError",
    "BudgetExceededError",
    "CostEstimate",
    "DerivedImage",
    "GatewayError",
    "GeneratedImage",
    "HintedDelays",
    "ImageOutcome",
    "ImageRequest",
    "ImageSource",
    "ImageSpec",
    "ImageValidationError",
    "InvalidRequestError",
    "JournalUnreadableError",
    "MalformedReplyError",
    "ModelNotAvailableError",
    "N1nClient",
    "N1nCredentials",
    "N1nError",
    "N1nSettings",
    "NoImageError",
    "OutcomeUnknownError",
    "PaidOnce",
    "PermissionDeniedError",
    "Price",
    "QuotaError",
    "RateLimitError",
    "RefusedError",
    "Review",
    "ReviewTimeoutError",
    "ReviewedImage",
    "S3Location",
    "SourceError",
    "Spending",
    "StagingError",
    "UploadError",
    "UploadedImage",
    "Usage",
    "Variant",
    "Violation",
    "__version__",
    "acreate_contact_sheet_artifact",
    "aderive_image",
    "adiscard_image",
    "aedit_image",
    "agenerate_image",
    "aimage_to_s3",
    "areview_images",
    "aupload_image",
    "avalidate_image",
    "check_review",
    "contact_sheet_markdown",
    "create_contact_sheet_artifact",
    "derive_image",
    "discard_image",
    "edit_image",
    "estimate_cost",
    "final_state",
    "gather_outcomes",
    "generate_image",
    "image_to_s3",
    "review_deadline_automation",
    "review_images",
    "upload_image",
    "validate_image",
]
