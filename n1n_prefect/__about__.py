"""The package's version, where modules that import no Prefect can read it."""

__version__ = "0.1.0"
