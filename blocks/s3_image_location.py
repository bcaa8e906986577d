"""Saves the S3 Image Location block `default` from `N1N_S3_BUCKET`; safe to run again.

`N1N_S3_PREFIX`, `N1N_S3_ENDPOINT_URL` and `N1N_S3_REGION` are optional. Keys are left to boto3's own
chain (`AWS_ACCESS_KEY_ID`, a profile, an instance role), so that no secret is stored.
"""

import os

from n1n_prefect.environment import location_from_environment

name = os.environ.get("N1N_S3_BLOCK", "default")
location_from_environment().save(name, overwrite=True)
print(f"Saved the S3 Image Location block; pick it in a form, or S3Location.load({name!r}).")
