import subprocess
import sys
from pathlib import Path

import pytest
from prefect import flow

from n1n_prefect import InvalidRequestError, N1nCredentials, S3Location
from n1n_prefect.cli import faults, main

FLOWS = '''
from prefect import flow

from n1n_prefect import N1nCredentials, S3Location, generate_image, upload_image


@flow
def careless(prompt: str, credentials: N1nCredentials, destination: S3Location, name: str) -> None:
    """Uploads whatever comes and returns nothing; draws again what it does not like, and leaves that behind."""
    image = generate_image(prompt, credentials=credentials)
    if image.width != 1024:
        image = generate_image(prompt, credentials=credentials, sample=1)
    upload_image(image, destination=destination, key=f"{name}.png")


def no_flow(credentials):
    return None
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FLOWS)
    return path


class TestCalledWrongly:
    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            ([], "FILE.py:FLOW"),
            (["mine.py"], "names no flow; give FILE.py:FLOW"),
            (["nowhere.py:mine"], "there is no file 'nowhere.py'"),
            ([f"{__file__}:mine", "--set", "name"], "write NAME=JSON"),
            ([f"{__file__}:mine", "--set", "name=fox"], "'fox' is no JSON; write texts as name='\"a text\"'"),
            ([f"{__file__}:mine", "--fault", "intrenal"], "Did you mean internal"),
        ],
    )
    def test_is_two_and_says_why(self, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["faults", *argv]) == 2
        assert said in capsys.readouterr().err


class TestTheFlowsParameters:
    def test_are_found_by_type_or_name(self) -> None:
        @flow
        def typed(a: N1nCredentials, b: S3Location | None = None, c: S3Location | None = None) -> None: ...

        @flow
        def bare(prompts, credentials, destination, source=None): ...

        assert faults._parameters_of(typed, N1nCredentials, ("credentials",)) == ["a"]
        assert faults._parameters_of(typed, S3Location, ("destination",)) == ["b", "c"]
        assert faults._parameters_of(bare, N1nCredentials, ("credentials",)) == ["credentials"]
        assert faults._parameters_of(bare, S3Location, ("destination", "source")) == ["destination", "source"]

    def test_are_filled_with_prompts_and_what_is_set(self) -> None:
        @flow
        def mine(prompts: list[str], credentials: N1nCredentials, size: int = 1) -> None: ...

        assert faults._filled(mine, ["a", "b"], {"size": 3}, ["credentials"]) == {"prompts": ["a", "b"], "size": 3}
        with pytest.raises(InvalidRequestError, match="'mine' has no seize; it takes prompts, credentials, size"):
            faults._filled(mine, ["a"], {"seize": 3}, ["credentials"])

    def test_that_are_missing_are_named(self) -> None:
        @flow
        def mine(prompt: str, images: list[str], credentials: N1nCredentials) -> None: ...

        with pytest.raises(InvalidRequestError, match="needs images; give it with --set NAME=JSON"):
            faults._filled(mine, ["a"], {}, ["credentials"])


class TestWhatCannotBeRun:
    @pytest.mark.parametrize(("name", "said"), [("no_flow", "could not be loaded"), ("nothing", "could not be loaded")])
    def test_is_one_line(self, name: str, said: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert faults.main(f'["{file}:{name}", [], {{}}, ["ok"]]') == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("n1n-prefect faults: The flow ")
        assert said in line


def test_the_prefect_it_runs_in_is_nobodys_but_our_settings_hold() -> None:
    assert faults._is_of_prefect("PREFECT_API_URL")
    assert not faults._is_of_prefect("PREFECT_INTEGRATIONS_N1N_UNKNOWN_RETRIES")


@pytest.mark.slow
@pytest.mark.prefect
class TestRun:
    def test_shows_what_was_paid_twice_and_lost(self, file: Path) -> None:
        command = [sys.executable, "-c", "import sys; from n1n_prefect.cli import main; sys.exit(main(sys.argv[1:]))"]
        asked = ["faults", f"{file}:careless", "--set", 'name="fox"', "--fault", "internal", "--fault", "wrong_size"]
        done = subprocess.run([*command, *asked], check=False, capture_output=True, text=True, timeout=240)
        assert (done.returncode, done.stderr) == (1, "")
        rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| `")]
        assert [row[:7] for row in rows] == [
            ["| `internal`", "known", "2", "1", "0", "0", "0"],
            ["| `wrong_size`", "known", "2", "2", "1", "0", "1"],
        ]
        assert [row[-1] for row in rows] == ["returned None |"] * 2
        *_, verdict, twice, lost = done.stdout.splitlines()
        assert verdict == "The flow failed 1 of 2 faults."
        assert twice == "  wrong_size: paid 1 image too many though it had the image: 2 calls, 2 billed"
        assert lost == "  wrong_size: lost 1 of 2 paid images, delivered whole; it returned None"
