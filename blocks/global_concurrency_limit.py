"""Saves the global concurrency limit `n1n` with 8 slots, or `N1N_CONCURRENCY_LIMIT` with `N1N_CONCURRENCY_SLOTS`.

It bounds how many calls all workers have under way together, where an n1n Credentials block
names it in `concurrency_limit`; safe to run again, also with another number of slots.
"""

import os

from prefect.client.orchestration import get_client

name = os.environ.get("N1N_CONCURRENCY_LIMIT", "n1n")
slots = int(os.environ.get("N1N_CONCURRENCY_SLOTS", "8"))
with get_client(sync_client=True) as client:
    client.upsert_global_concurrency_limit_by_name(name, slots)
print(f"Saved the global concurrency limit {name!r} with {slots} slots; name it in concurrency_limit of the block.")
