"""`n1n-prefect link`: an address by which anybody can fetch one object for a while."""

import argparse

from n1n_prefect.cli import arguments

NAME = "link"
HELP = (
    "Print an https address by which anybody can fetch an object for a while, without a key. It is signed here and "
    "kept nowhere; whoever has it has the object. That the object is there is looked up first."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's own arguments."""
    parser.add_argument("object", metavar="s3://BUCKET/KEY", help="the object, or its key in the location's bucket")
    parser.add_argument(
        "--location", required=True, metavar="BLOCK", help="an S3 Image Location block that may read the object"
    )
    parser.add_argument(
        "--expires",
        type=arguments.lifetime,
        default=900,
        metavar="TIME",
        help="how long the address is good for: a number of s, m, h or d, such as 15m; at most 7d",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the address, alone on its line; 1 if there is no such object."""
    from n1n_prefect.blocks import S3Location
    from n1n_prefect.cli.loading import loaded

    location = loaded(S3Location, args.location)
    address = location.presigned_url(args.object, expires_seconds=args.expires)
    location.check_there(args.object)
    print(address)
    return 0
