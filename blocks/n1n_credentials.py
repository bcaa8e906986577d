"""Saves the n1n Credentials block `default` from `N1N_API_KEY`; safe to run again.

`N1N_BASE_URL` and `N1N_CONCURRENCY_LIMIT`, the name of a global concurrency limit, go into it if they are set;
what else a saved block has, such as its account and prices, it keeps.
"""

import os

from n1n_prefect.environment import save_credentials

name = os.environ.get("N1N_CREDENTIALS_BLOCK", "default")
save_credentials(name)
print(f"Saved the n1n Credentials block; pick it in a form, or N1nCredentials.load({name!r}).")
