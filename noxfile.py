"""The package on each Python and Prefect that it supports, in an environment of its own: `nox`.

`nox -l` lists the pairs, `nox --python 3.12` takes some; what follows `--` goes to pytest. A Python that
the machine does not have is skipped. `make compat` runs it, in CI as well.
"""

import nox

nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "venv"

# Prefect 3.9 asks for Python 3.11.
PAIRS = [
    *[(python, "3.8.8") for python in ("3.10", "3.11", "3.12", "3.13", "3.14")],
    *[(python, "3.9.1") for python in ("3.11", "3.12", "3.13", "3.14")],
]


@nox.session
@nox.parametrize("python,prefect", PAIRS)
def compat(session: nox.Session, prefect: str) -> None:
    """The tests but the slow ones, with one Python and one Prefect."""
    session.install("--upgrade", "pip")  # dependency groups came with pip 25.1
    session.install("-e", ".", "--group", "test", f"prefect=={prefect}")
    session.run("prefect", "version")
    session.run("pytest", *(session.posargs or ("-m", "not slow")))
