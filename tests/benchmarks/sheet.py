"""What the contact sheet of a run costs."""

import statistics
import tempfile
from collections.abc import Iterator

from tests.benchmarks.measuring import Line, cpu_of, fresh

_IMAGES = 24


def lines(rounds: int) -> Iterator[Line]:
    """CPU of a sheet with as many pictures as it shows."""
    taken = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as home:
            env = {"PREFECT_HOME": home, "PREFECT_LOCAL_STORAGE_PATH": home}
            taken.append(fresh(sheet_seconds, _IMAGES, env=env).told)
    seconds, length = (statistics.median(run[number] for run in taken) for number in (0, 1))
    yield Line(
        "sheet",
        f"CPU of a contact sheet of {_IMAGES} images",
        seconds,
        "s",
        None,
        f"{length / 1000:.0f} kB of Markdown",
    )


def sheet_seconds(images: int) -> tuple[float, int]:
    """CPU seconds and length of a sheet, behind one that loads Pillow; runs in a fresh process."""
    from n1n_prefect import N1nCredentials, contact_sheet_markdown, generate_image
    from n1n_prefect.testing import LocalGateway

    with LocalGateway(canned=True) as gateway:
        credentials = N1nCredentials(api_key=gateway.api_key, base_url=gateway.base_url)
        made = [generate_image.fn(f"image {number}", credentials=credentials) for number in range(images)]
    contact_sheet_markdown(made[:1])
    sheets: list[str] = []
    seconds = cpu_of(lambda: sheets.append(contact_sheet_markdown(made)))
    assert sheets[0].count("data:image/webp") == images
    return seconds, len(sheets[0].encode())
