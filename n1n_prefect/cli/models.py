"""`n1n-prefect models`: what the key serves, with what the catalogue knows of it."""

import argparse
import os

from n1n_prefect import catalog
from n1n_prefect.client import DEFAULT_BASE_URL, N1nClient
from n1n_prefect.errors import InvalidRequestError
from n1n_prefect.images import ImageRequest
from n1n_prefect.pricing import estimate_usd

NAME = "models"
HELP = "List the models that a key serves; image models with their ratios, sizes and list price."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's own arguments."""
    parser.add_argument("--credentials", metavar="BLOCK", help="an n1n Credentials block; else N1N_API_KEY is used")
    parser.add_argument("--all", action="store_true", help="also those that the catalogue does not know")


def run(args: argparse.Namespace) -> int:
    """Asks the gateway and prints a line for each model."""
    with _client(args.credentials) as client:
        served = client.models()
    known = [model for model in served if catalog.find(model)]
    for model in served if args.all else known:
        print(_line(model))
    print(f"{len(served)} models, {len(known)} of them image models of the catalogue.")
    return 0


def _client(block: str | None) -> N1nClient:
    if block is not None:
        from n1n_prefect.blocks import N1nCredentials
        from n1n_prefect.cli.loading import loaded

        return loaded(N1nCredentials, block).get_client()
    if not os.environ.get("N1N_API_KEY"):
        raise InvalidRequestError("There is no key. Set N1N_API_KEY or pass --credentials BLOCK.")
    return N1nClient(os.environ["N1N_API_KEY"], os.environ.get("N1N_BASE_URL") or DEFAULT_BASE_URL)


def _line(model: str) -> str:
    entry = catalog.find(model)
    if entry is None:
        return model
    price = estimate_usd(ImageRequest("", model=model))
    sizes = ", ".join(entry.image_sizes) or "no size tiers"
    return f"{model:32} {entry.nick:20} {len(entry.aspect_ratios)} ratios; {sizes}; from ${price:.4f} an image"
