"""Saves the n1n Credentials block `default` from `N1N_API_KEY`; safe to run again.

`N1N_BASE_URL` and `N1N_CONCURRENCY_LIMIT`, the name of a global concurrency limit, go into it if they are set.
"""

import os

from pydantic import SecretStr

from n1n_prefect import N1nCredentials

credentials = N1nCredentials(
    api_key=SecretStr(os.environ["N1N_API_KEY"]),
    base_url=os.environ.get("N1N_BASE_URL", "https://api.n1n.ai"),
    concurrency_limit=os.environ.get("N1N_CONCURRENCY_LIMIT", ""),
)
credentials.save(os.environ.get("N1N_CREDENTIALS_BLOCK", "default"), overwrite=True)
print("Saved the n1n Credentials block; pick it in a form, or N1nCredentials.load('default').")
