"""An image for each row of a table, checked and put into S3, with a table of what came of every row.

The flow is the package's own, and is deployed from a plain install; here it is run from a checkout. Killed,
or stopped by a ceiling, it goes on when it is run again, and pays only for what is missing.
"""

import argparse

from n1n_prefect import N1nCredentials, S3Location
from n1n_prefect.batch import batch_to_s3

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", help="a .csv, .jsonl or .parquet file, local or s3://, with a column prompt")
    parser.add_argument("--credentials", default="default", help="name of an n1n Credentials block")
    parser.add_argument("--destination", default="default", help="name of an S3 Image Location block")
    parser.add_argument("--batch-id", default="", help="the batch's name; that of the manifest's file, if not given")
    parser.add_argument("--dry-run", action="store_true", help="check every row and estimate dollars, without a call")
    parser.add_argument("--only-failed", action="store_true", help="carry out again what failed in an earlier run")
    parser.add_argument("--skip-bad-rows", action="store_true", help="leave rows out that cannot be carried out")
    parser.add_argument("--variant", action="append", default=[], help='such as "thumb=crop 256x256 webp 80"')
    parser.add_argument("--max-usd", type=float, help="a ceiling for all runs of the batch together, in US dollars")
    given = parser.parse_args()
    print(
        batch_to_s3(
            given.manifest,
            N1nCredentials.load(given.credentials),
            S3Location.load(given.destination),
            batch_id=given.batch_id,
            dry_run=given.dry_run,
            only_failed=given.only_failed,
            on_bad_rows="skip" if given.skip_bad_rows else "strict",
            variants=given.variant,
            max_usd=given.max_usd,
        )
    )
