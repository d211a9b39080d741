"""The Markdown summary: it contains every table, and text of records cannot break them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.lists import validate
from tests.support.terrain import terrain
from vhm.data.validation.report import report_markdown


def test_the_summary_shows_counts_reasons_sources_and_expectations(tmp_path: Path) -> None:
    (tmp_path / "images" / "a<b|c").mkdir(parents=True)
    records = []
    for number in range(3):
        terrain(number, 64).save(tmp_path / "images" / "a<b|c" / f"{number}.jpg")
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": f"Ground, view {number}."}]
        records.append({"source_dataset": "a<b|c", "image": f"{number}.jpg", "conversations": turns})
    records.append(records[0])
    (tmp_path / "list.json").write_text(json.dumps(records))
    result = validate(tmp_path / "list.json", tmp_path / "images", tmp_path / "out", "pretrain", max_rejected=0.1)
    assert not result.passed
    markdown = report_markdown(result)
    page = (tmp_path / "out" / "report.html").read_text()
    for text in ("3 of 4", "duplicate", "25.0%", "answers", "NOT MET", "between"):
        assert text in markdown, text
    assert result.summary in markdown
    for text in ("3 of 4", "duplicate", "25.0 %", "NOT MET", "between", "a&lt;b|c"):
        assert text in page, text
    assert "a&lt;b\\|c" in markdown
    widths = {line.replace("\\|", "").count("|") for line in markdown.splitlines() if line.startswith("| a&lt;b")}
    assert widths == {7}
