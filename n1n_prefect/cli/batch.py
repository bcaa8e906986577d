"""`n1n-prefect batch`: a manifest carried out, with saved blocks or, to try it, on local servers."""

import argparse
from typing import Any

from n1n_prefect import catalog
from n1n_prefect.cli import arguments, local_batch
from n1n_prefect.cli.local_batch import carried_out
from n1n_prefect.images import DEFAULT_MODEL, OUTCOME_STATUSES

NAME = "batch"
HELP = "Make an image for each row of a table, put it into S3, and write a table of what came of every row."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's own arguments; what they mean stands at the flow's parameters of the same names."""
    parser.add_argument("manifest", help="a .csv, .jsonl or .parquet file, local or s3://, with a column prompt")
    _add_places(parser)
    _add_what(parser)
    _add_how(parser)


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--local", type=arguments.folder, metavar="FOLDER",
        help="try it on a local gateway and a local S3 without a key, and copy what they have to a folder",
    )  # fmt: skip
    parser.add_argument("--credentials", default="default", metavar="BLOCK", help="an n1n Credentials block")
    parser.add_argument("--destination", default="default", metavar="BLOCK", help="an S3 Image Location block")
    parser.add_argument("--source", metavar="BLOCK", help="another one, for s3:// manifests and input images")
    parser.add_argument("--batch-id", default="", metavar="NAME", help="the manifest's name, if not given")
    parser.add_argument("--prefix", default="", help="the folder below the destination's; the batch id, if not given")


def _add_what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="check all rows and estimate dollars, without a call")
    parser.add_argument("--only-failed", action="store_true", help="carry out what failed in an earlier run")
    parser.add_argument(
        "--only-status", action="append", default=[], choices=OUTCOME_STATUSES, metavar="STATUS", dest="only_statuses",
        help="with --only-failed, of this status alone; may be repeated",
    )  # fmt: skip
    parser.add_argument("--skip-bad-rows", action="store_true", help="leave out rows that cannot be carried out")
    parser.add_argument("--no-input-check", action="store_true", help="do not look for input images beforehand")


def _add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=DEFAULT_MODEL, help="of rows that name none (default: %(default)s)")
    parser.add_argument("--aspect-ratio", default="default", choices=("default", *catalog.ALL_RATIOS), metavar="RATIO")
    parser.add_argument("--image-size", default="default", choices=("default", *catalog.SIZES), metavar="SIZE")
    parser.add_argument(
        "--variant", action="append", default=[], dest="variants", help='such as "thumb=crop 256x256 webp 80"'
    )
    parser.add_argument(
        "--spec", type=arguments.json_object, metavar="JSON", help='rules for every image, such as {"min_edge": 1000}'
    )
    parser.add_argument("--regenerate", type=int, metavar="N", help="draw a wrong image again, up to N times, and pay")
    parser.add_argument("--if-exists", default="fail", choices=("fail", "keep", "replace"), help="(default: fail)")
    parser.add_argument("--max-usd", type=float, help="a ceiling for all runs of the batch together")
    parser.add_argument("--chunk-size", type=int, default=200, help="rows in a task run (default: %(default)s)")
    parser.add_argument("--deployment", default="", metavar="FLOW/NAME", help="whose workers carry out the chunks")
    parser.add_argument("--sidecars", action="store_true", help="put its provenance beside each image")


def run(args: argparse.Namespace) -> int:
    """Carries the batch out, in this process or in one whose Prefect keeps all below a folder."""
    if args.local is not None:
        return local_batch.run(args.local, args.manifest, _options(args))
    from n1n_prefect.blocks import N1nCredentials, S3Location
    from n1n_prefect.cli.loading import loaded

    source = loaded(S3Location, args.source) if args.source is not None else None
    blocks = loaded(N1nCredentials, args.credentials), loaded(S3Location, args.destination), source
    return carried_out(args.manifest, *blocks, **_options(args))


def _options(args: argparse.Namespace) -> dict[str, Any]:
    same = (
        "batch_id", "prefix", "dry_run", "only_failed", "only_statuses", "model", "aspect_ratio", "image_size",
        "variants", "spec", "if_exists", "max_usd", "chunk_size", "deployment", "sidecars",
    )  # fmt: skip
    again = {} if args.regenerate is None else {"on_invalid": "regenerate", "regenerations": args.regenerate}
    return {
        **{name: getattr(args, name) for name in same},
        **again,
        "on_bad_rows": "skip" if args.skip_bad_rows else "strict",
        "check_inputs": not args.no_input_check,
    }
