"""Data Docs in a real browser without a network; the same bytes each time; the same verdict as the validation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import chromium
from tests.support.lists import validate

if TYPE_CHECKING:
    from playwright.sync_api import Page

LONG = "A river bends around dry fields."


def write_list(path: Path, answers: list[str], bad: int = 0) -> Path:
    records = [
        {"id": str(number), "source_dataset": "a<b", "conversations": turns(answer)}
        for number, answer in enumerate([*answers, *[""] * bad])
    ]
    path.write_text(json.dumps(records))
    return path


def turns(answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": "What does it show?"}, {"from": "gpt", "value": answer}]


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a list of which a third is rejected, but at most a tenth may be; every expectation but that one is met."""
    folder = tmp_path_factory.mktemp("docs")
    source = write_list(folder / "list.json", [f"{LONG} {number}" for number in range(4)], bad=2)
    result = validate(source, folder, folder / "out", skip_images=True, max_rejected=0.1)
    assert result.failures == ("2 of 6 records rejected (33.3%, at most 10.0% allowed): 2 empty_answer",)
    return folder / "out" / "data_docs"


def pages_of(docs: Path) -> dict[str, str]:
    return {path.relative_to(docs).as_posix(): path.read_text() for path in sorted(docs.rglob("*")) if path.is_file()}


def test_there_is_a_page_of_results_and_of_expectations_for_each_table(docs: Path) -> None:
    tables = ("list", "records", "sources")
    expected = [*(f"{section}/{table}.html" for section in ("expectations", "validations") for table in tables)]
    assert sorted(pages_of(docs)) == sorted(["index.html", *expected])


def test_the_verdict_is_that_of_the_validation(docs: Path, tmp_path: Path) -> None:
    pages = pages_of(docs)
    assert verdicts(pages["index.html"]) == ["failed", "failed", "passed", "passed"]  # the list, then each table
    assert "rejected_share: few records are rejected" in pages["index.html"]
    assert "Failed" in pages["validations/list.html"]
    assert "Succeeded" in pages["validations/records.html"]
    assert not json.loads((docs.parent / "validation.json").read_text())["expectations"]["success"]
    source = write_list(tmp_path / "list.json", [LONG])
    assert validate(source, tmp_path, tmp_path / "out", skip_images=True).passed
    assert verdicts(pages_of(tmp_path / "out" / "data_docs")["index.html"]) == ["passed"] * 4


def verdicts(index: str) -> list[str]:
    return re.findall(r"passed|failed", re.sub(r"<style>.*?</style>", "", index, flags=re.DOTALL))


def test_two_runs_write_the_same_bytes_without_a_time(docs: Path, tmp_path: Path) -> None:
    source = docs.parent.parent / "list.json"
    validate(source, tmp_path, tmp_path / "out", skip_images=True, max_rejected=0.1)
    again = pages_of(tmp_path / "out" / "data_docs")
    assert again == pages_of(docs)
    assert not [name for name, page in again.items() if re.search(r"20\d\d-?\d\d-?\d\d|\d\d:\d\d", page)]


def test_pages_refer_to_no_other_host(docs: Path) -> None:
    for name, page in pages_of(docs).items():
        assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//|@import|url\(", page), name


def test_why_something_is_expected_is_shown(docs: Path) -> None:
    assert "few records are rejected" in pages_of(docs)["expectations/list.html"]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with chromium() as browser:
        yield browser.new_context(offline=True).new_page()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_work_in_a_browser_without_a_network(docs: Path, page: Page, width: int) -> None:
    problems: list[str] = []
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url)
    )
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.set_viewport_size({"width": width, "height": 800})
    for name in pages_of(docs):
        page.goto((docs / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.locator("h1").is_visible()
        for link in page.locator("a[href]").all():
            target = link.get_attribute("href") or ""
            assert target.startswith("#") or ((docs / name).parent / target).is_file(), (name, target)
    assert problems == []


@pytest.mark.slow
def test_expectations_that_are_met_can_be_hidden(docs: Path, page: Page) -> None:
    page.goto((docs / "index.html").as_uri())
    page.click("a[href='validations/list.html']")
    rows = page.locator("tr", has=page.locator("i.fas"))
    assert [row.is_visible() for row in rows.all()] == [True, True, True]
    page.check("#failed-only")
    assert [row.is_visible() for row in rows.all()] == [False, True, False]  # by column
    assert page.evaluate("getComputedStyle(document.querySelector('.fa-times'), '::before').content") == '"✗"'
