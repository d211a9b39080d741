"""Each foreign format, end to end: imported from a small file, and accepted by `vhm validate` with its images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.foreign import MAKERS
from tests.support.lists import validate
from vhm.data.importing.run import import_data


@pytest.mark.parametrize("name", MAKERS)
def test_each_format_becomes_a_list_that_validates(name: str, tmp_path: Path) -> None:
    make, expected = MAKERS[name]
    report = import_data(make(tmp_path / "source"), tmp_path / "out")
    print(json.dumps(report.to_dict(), indent=1))
    records = json.loads((tmp_path / "out" / "list.json").read_text())
    print(json.dumps(records, indent=1))
    assert (len(records), report.written, report.images_missing) == (expected, expected, 0)
    assert report.image_root is not None
    result = validate(tmp_path / "out" / "list.json", report.image_root, tmp_path / "checked")
    assert (result.accepted, dict(result.reasons)) == (expected, {})
