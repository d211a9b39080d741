"""report.html in Chromium: filters, the viewer, the keyboard, narrow and wide, and no request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.data.validation.report.dataset import Dataset, make_dataset
from tests.support.browser import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    dataset = make_dataset(tmp_path_factory.mktemp("dataset"))
    dataset.add_overlap()
    return dataset


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, dataset: Dataset) -> Iterator[Page]:
    """The page; at the end it must have had no error, no refused content and no request."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on("request", lambda request: problems.append(request.url) if "report.html" not in request.url else None)
    page.goto((dataset.out / "report.html").as_uri())
    yield page
    assert [problem for problem in problems if not problem.startswith("data:image/")] == []
    page.close()


def visible(page: Page) -> list[str]:
    """The indices of the visible examples."""
    return [text.removeprefix("record ") for text in page.locator(".card:visible .ids b").all_inner_texts()]


def test_examples_are_searched_and_filtered(page: Page) -> None:
    everything = visible(page)
    assert page.locator("#count").inner_text() == f"{len(everything)} of {len(everything)} examples"
    page.fill("#search", "ABSENT beta")
    assert visible(page) == ["4"]
    assert page.locator("[data-group]:visible").count() == 1
    page.fill("#search", "zebra")
    assert visible(page) == []
    assert page.locator("#nothing").is_visible()
    page.click("#clear")
    assert visible(page) == everything
    page.select_option("#status", "reported")
    assert sorted(visible(page)) == ["0", "10", "9"]
    page.select_option("#source", "beta")
    assert visible(page) == ["9", "10"]
    page.click("#clear")
    page.select_option("#code", "image_truncated")
    assert visible(page) == ["5"]
    page.click("text=The image file does not exist >> nth=0")  # a link to a group that is filtered out
    assert visible(page) == everything


def test_the_keyboard_reaches_search_and_the_enlarged_examples(page: Page) -> None:
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.locator(".card button.frame").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#viewer").is_visible()
    first = page.locator("#stage .ids b").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#stage .ids b").inner_text() != first
    page.keyboard.press("ArrowLeft")
    assert page.locator("#stage .ids b").inner_text() == first
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()


def test_outlines_lie_on_their_images(page: Page) -> None:
    """The right half of the training image, the left half of the evaluation image."""
    frames = page.locator(".card:has(polygon.shared) .shot")
    for number, (left, right) in enumerate([(0.5, 1.0), (0.0, 0.5)]):
        image = frames.nth(number).locator("img").bounding_box()
        shared = frames.nth(number).locator("polygon.shared").bounding_box()
        assert image is not None
        assert shared is not None
        assert shared["x"] == pytest.approx(image["x"] + left * image["width"], abs=2)
        assert shared["x"] + shared["width"] == pytest.approx(image["x"] + right * image["width"], abs=2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_narrow_and_wide_windows(
    width: int, scheme: str, browser: Browser, dataset: Dataset, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto((dataset.out / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert (sum(_rgb(ground)) > sum(_rgb(ink))) == (scheme == "light")
    page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
    page.close()


def test_without_scripts_everything_is_there(browser: Browser, dataset: Dataset) -> None:
    """As in a viewer that shows the artifact in a frame without scripts."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((dataset.out / "report.html").as_uri())
    assert page.locator(".card:visible").count() == page.locator(".card").count() > 0
    assert not page.locator("#tools").is_visible()
    context.close()


def test_the_download_is_a_csv_file(page: Page) -> None:
    with page.expect_download() as download:
        page.click("text=Download as CSV")
    assert download.value.suggested_filename == "rejected.csv"
    assert download.value.path().read_text("utf-8-sig").startswith("index,id,source,image,reason,meaning,detail")


def _rgb(colour: str) -> list[int]:
    return [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
