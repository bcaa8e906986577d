import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from n1n_prefect.batch import results_parquet
from n1n_prefect.batch.results_parquet import convert


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "rows.jsonl", tmp_path / "rows.parquet"


def test_what_a_line_does_not_name_is_null(files: tuple[Path, Path]):
    files[0].write_bytes(b'{"a":"x"}\n{"b":2,"else":1}\n')
    convert(*files, [("b", "integer", "A number."), ("a", "text", "A text.")])
    assert pq.read_table(files[1]).to_pylist() == [{"b": None, "a": "x"}, {"b": 2, "a": None}]


def test_a_value_of_another_kind_is_an_error(files: tuple[Path, Path]):
    files[0].write_bytes(b'{"a":"x"}\n')
    with pytest.raises(pa.ArrowInvalid):
        convert(*files, [("a", "integer", "A number.")])


def test_as_a_script(files: tuple[Path, Path], monkeypatch: Any):
    files[0].write_bytes(b'{"a":"x"}\n')
    columns = files[0].with_name("columns.json")
    columns.write_bytes(b'[["a", "text", "A text."]]')
    monkeypatch.setattr(sys, "argv", ["script", *map(str, files), str(columns)])
    runpy.run_path(results_parquet.__file__, run_name="__main__")
    assert pq.read_table(files[1]).to_pylist() == [{"a": "x"}]


def test_loads_nothing_of_ours_and_no_prefect():
    code = (
        f"import runpy, sys; runpy.run_path({results_parquet.__file__!r}); "
        "print([name for name in sys.modules if name.startswith(('n1n_prefect', 'prefect', 'boto', 'pydantic'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
