"""One of several processes that make the same call at the same moment, with their locks in Redis."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from n1n_prefect import N1nCredentials, PaidOnce, generate_image, locks, staging
from tests.redis_server import lock_manager_at

SMALL: dict[str, Any] = {"model": "gemini-3.1-flash-image", "image_size": "512"}
TIMEOUT_SECONDS = 4


def draw(base_url: str, redis_url: str) -> dict[str, Any]:
    """What this process got; a killed holder's lock ends after 6 s here."""
    locks.BODY_SECONDS, locks._STORING_SECONDS = 0, 2
    policy = PaidOnce("week-46", lock_manager=lock_manager_at(redis_url))
    credentials = N1nCredentials(
        api_key="sk-local-gateway",  # pyright: ignore[reportArgumentType]
        base_url=base_url,
        timeout_seconds=TIMEOUT_SECONDS,
    )
    task = generate_image.with_options(cache_policy=policy)
    image = task("the same for all", credentials=credentials, **SMALL)
    return {"reused": image.reused, "possible_duplicates": image.possible_duplicates, "sha256": image.sha256}


def main(base_url: str, redis_url: str, ready: str, go: str, stops_at: str = "", reached: str = "") -> None:
    """Waits until all are ready, draws, and prints what came; stops for ever where a file that ends so is written."""
    write = staging.LocalStorage.write

    def stop_there(self: staging.LocalStorage, key: str, data: bytes) -> None:
        if stops_at and key.endswith(stops_at):
            Path(reached).touch()
            time.sleep(600)
        write(self, key, data)

    staging.LocalStorage.write = stop_there
    Path(ready).touch()
    while not Path(go).exists():
        time.sleep(0.01)
    print(json.dumps(draw(base_url, redis_url)))


if __name__ == "__main__":
    main(*sys.argv[1:])
