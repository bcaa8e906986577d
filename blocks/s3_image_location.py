"""Saves the S3 Image Location block `default` from `N1N_S3_BUCKET`; safe to run again.

`N1N_S3_PREFIX`, `N1N_S3_ENDPOINT_URL` and `N1N_S3_REGION` are optional. Keys are left to boto3's own
chain (`AWS_ACCESS_KEY_ID`, a profile, an instance role), so that no secret is stored.
"""

import os

from n1n_prefect import S3Location

location = S3Location(
    bucket=os.environ["N1N_S3_BUCKET"],
    prefix=os.environ.get("N1N_S3_PREFIX", ""),
    endpoint_url=os.environ.get("N1N_S3_ENDPOINT_URL", ""),
    region_name=os.environ.get("N1N_S3_REGION", ""),
)
location.save(os.environ.get("N1N_S3_BLOCK", "default"), overwrite=True)
print("Saved the S3 Image Location block; pick it in a form, or S3Location.load('default').")
