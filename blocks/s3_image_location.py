"""Saves the S3 Image Location block `default` from `N1N_S3_BUCKET`; safe to run again.

`N1N_S3_PREFIX`, `N1N_S3_ENDPOINT_URL` and `N1N_S3_REGION` are optional. Keys are left to boto3's own
chain (`AWS_ACCESS_KEY_ID`, a profile, an instance role), so that no secret is stored;
what else a saved block has, it keeps.
"""

import os

from n1n_prefect.environment import save_location

name = os.environ.get("N1N_S3_BLOCK", "default")
save_location(name)
print(f"Saved the S3 Image Location block; pick it in a form, or S3Location.load({name!r}).")
