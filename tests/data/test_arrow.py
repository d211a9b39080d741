from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
import pyarrow as pa
from vhm.data.arrow import spare_pandas

spare_pandas()
table = pa.table({"text": ["a", None]}, schema=pa.schema([("text", pa.string())]))
print("pandas" in sys.modules, table.to_pandas()["text"][0], sys.modules["pandas"].__name__)
"""


def test_pyarrow_makes_a_table_without_pandas_and_converts_it_to_pandas_afterwards() -> None:
    process = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)
    assert process.stdout.split() == ["False", "a", "pandas"]
