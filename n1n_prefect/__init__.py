"""Prefect tasks and blocks for the image models behind the n1n gateway."""

__version__ = "0.1.0"
