import io
import sys

import pytest
from pydantic import SecretStr

from n1n_prefect import N1nCredentials, Price
from n1n_prefect.cli import main

ROWS = """
"a fox"
{"id": "sku-1", "prompt": "a wolf", "model": "gemini-3-pro-image", "image_size": "4K"}

{"prompt": "a\u2028hare", "images": ["hare.png"]}
"""


@pytest.fixture
def said(capsys):
    """What a call says: exit code, stdout and stderr."""

    def said(*argv):
        code = main(["estimate", *map(str, argv)])
        return code, *capsys.readouterr()

    return said


@pytest.fixture
def file(tmp_path):
    def file(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return file


class TestEstimate:
    def test_a_line_for_each_model_and_the_total(self, said, file):
        code, out, err = said("an owl", "--file", file("prompts.jsonl", ROWS))
        assert (code, err) == (0, "")
        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert lines[:3] == [
            "gemini-2.5-flash-image 3 images $0.1164 ($0.0388 each)",
            "gemini-3-pro-image 1 image $0.2400 ($0.2400 each)",
            "Total 4 images $0.3564",
        ]
        assert "At most $1.069" in out
        assert "list prices, read 2026-07 to 2026-10" in out
        assert "Not counted: thinking, which is billed as text; web searches" in out

    @pytest.mark.parametrize("content", ["a fox\r\n\r\n  a wolf \r\n", b"\xef\xbb\xbfa fox\na wolf"])
    def test_a_prompt_on_each_line(self, said, file, content):
        assert "2 images" in said("--file", file("prompts.txt", content))[1]

    @pytest.mark.parametrize(("content", "images"), [("a fox\na wolf\n", 2), ('{"prompt": "a fox"}\n', 1)])
    def test_stdin_has_either(self, said, monkeypatch, content, images):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
        assert f"{images} image" in said("--file", "-")[1]

    def test_options_are_for_all_that_say_nothing_else(self, said, file):
        path = file("prompts.jsonl", ROWS)
        out = said("--file", path, "--model", "gemini-3.1-flash-image", "--aspect-ratio", "16:9", "--images", "2")[1]
        assert "gemini-3.1-flash-image 2 images" in " ".join(out.split())

    def test_input_images_cost(self, said):
        assert "$0.0387" in said("a fox")[1]
        assert "$0.0407" in said("a fox", "--images", "6")[1]

    def test_an_unknown_model_is_no_failure_and_said(self, said):
        code, out, _ = said("a fox", "--model", "gemini-9")
        assert code == 0
        assert "The total leaves out 'gemini-9': no price is known." in out

    def test_repeated_requests_are_said(self, said):
        assert "1 repeated: equal requests share one image" in said("a fox", "a fox")[1]

    def test_a_ceiling_that_will_not_do_is_said(self, said, monkeypatch):
        monkeypatch.setenv("PREFECT_INTEGRATIONS_N1N_MAX_USD_PER_RUN", "0.05")
        assert "more than" not in said("a fox")[1]
        assert "more than the setting max_usd_per_run=0.05" in said("a fox", "a wolf")[1]

    @pytest.mark.prefect
    def test_a_block_brings_what_it_is_charged(self, said, prefect_api):
        key, prices = SecretStr("sk-hush"), {"gemini-9": Price(per_image=0.02)}
        N1nCredentials(api_key=key, price_factor=0.5, prices=prices).save("half-price", overwrite=True)
        code, out, _ = said("a fox", "--model", "gemini-9", "--credentials", "half-price")
        assert code == 0
        assert "$0.0100" in out
        assert "its own for gemini-9, times the block's price_factor 0.5" in out
        assert "hush" not in out


class TestCalledInAHurry:
    def test_without_anything(self, said):
        code, _, err = said()
        assert code == 2
        assert "give a PROMPT, or --file FILE" in err

    @pytest.mark.parametrize("content", ["", "\n \r\n\t"])
    @pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
    def test_with_an_empty_file(self, said, file, name, content):
        code, _, err = said("--file", file(name, content))
        assert code == 1
        assert f"{name} is empty" in err

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ('{"prompt": "a fox"', "is no JSON: Expecting ',' delimiter at column 19"),
            ("[" * 100_000, "is no JSON: RecursionError"),
            ("[1]", "a text or an object is expected, not '[1]'"),
            ("{}", "there is no prompt among its fields, since it has none"),
            ('{"Prompt": "a fox"}', "there is no prompt among Prompt"),
            ('{"prompt": null}', "prompt must be one text"),
            ('{"prompt": "a fox", "ratio": "1:1"}', "there is no field 'ratio'"),
            ('{"prompt": "a fox", "aspect_ratio": "7:3"}', "aspect_ratio='7:3' is not something"),
            ('{"prompt": "a fox", "images": 7}', "image 1 is of type 'int'"),
            ('{"prompt": "a fox", "sample": -1}', "sample=-1"),
            (b'"a \xff fox"', "is not UTF-8"),
        ],
    )
    def test_a_bad_row_is_named_by_its_line(self, said, file, row, reason):
        row = row if isinstance(row, bytes) else row.encode()
        code, _, err = said("--file", file("prompts.jsonl", b'"a wolf"\n\n' + row + b'\n"a hare"\n'))
        assert code == 1
        assert "prompts.jsonl, line 3" in err
        assert reason in err
        assert err.count("\n") == 1

    @pytest.mark.parametrize(
        ("argv", "reason"),
        [
            (["a fox", "--aspect-ratio", "7:3"], "it has 1:1, 2:3"),
            (["a fox", "--image-size", "2K"], "leave image_size out"),
            (["a fox", ""], "Prompt 2: prompt='' is empty"),
            (["--file", "none.txt"], "No such file or directory: 'none.txt'"),
            (["--file", "prompts.csv"], "'prompts.csv' is neither .txt nor .jsonl"),
        ],
    )
    def test_what_cannot_work_is_named(self, said, argv, reason):
        code, _, err = said(*argv)
        assert code == 1
        assert reason in err

    def test_more_input_images_than_a_model_takes(self, said):
        code, _, err = said("a fox", "--images", "15")
        assert code == 2
        assert "give 0 to 14" in err
