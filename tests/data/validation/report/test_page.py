"""report.html: the verdict and all numbers are there, text of records is harmless, and the bytes depend on inputs."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.validation.report.dataset import HOSTILE, Dataset, make_dataset, record
from vhm.data.records import REASONS
from vhm.data.validation.report import examples, page, report_markdown, write_report
from vhm.data.validation.report.examples import Rejected, RejectedRecord
from vhm.data.validation.report.words import ADVICE, FINDINGS
from vhm.data.validation.request import ValidationRequest
from vhm.data.validation.validate import validate


class Parsed(HTMLParser):
    """All tags with their attributes, and the text outside style and script."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._hidden = False
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._hidden = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._hidden else data

    def all(self, tag: str, css_class: str = "") -> list[dict[str, str]]:
        return [
            attributes
            for name, attributes in self.tags
            if name == tag and css_class in ["", *attributes.get("class", "").split()]
        ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    dataset = make_dataset(tmp_path_factory.mktemp("found"))
    dataset.add_overlap()
    return dataset


def test_the_verdict_has_the_words_of_the_command(dataset: Dataset) -> None:
    text = " ".join(Parsed(dataset.page).text.split())
    reasons = {"image_missing", "image_truncated", "control_character", "not_object", "leak"}
    assert dict(dataset.result.reasons) == dict.fromkeys(reasons, 1)
    assert "Failed" in text
    assert dataset.result.summary.startswith("6 of 11 accepted (1 ")
    assert dataset.result.summary in text
    assert dataset.result.failures[0] in text
    assert "exit status 1: the check said no" in text


def test_every_reason_is_explained_with_what_to_do(dataset: Dataset) -> None:
    text = Parsed(dataset.page).text
    for reason in dataset.result.reasons:
        assert ADVICE[reason] in text
        assert REASONS[reason][1:] in text


def test_every_reason_has_advice() -> None:
    assert set(REASONS) == set(ADVICE)


def test_each_source_has_its_accepted_and_rejected_records(dataset: Dataset) -> None:
    rows = {
        cells[0]: cells
        for row in re.findall(r"<tr>(.*?)</tr>", dataset.page.partition('id="sources"')[2], re.DOTALL)
        if (cells := [" ".join(Parsed(cell).text.split()) for cell in re.split(r"(?=<t[hd])", row)[1:]])
    }
    assert rows["alpha"][2:5] == ["4", "36.4 %", "2 50.0 %"]
    assert rows["beta"][2:5] == ["6", "54.5 %", "2 33.3 %"]
    assert rows["(none)"][2:5] == ["1", "9.1 %", "1 100.0 %"]
    assert (
        rows["beta"][-1] == "The image ends early or is corrupt (1); The image file does not exist (1)"
        or rows["beta"][-1] == "The image file does not exist (1); The image ends early or is corrupt (1)"
    )


def test_rejected_records_can_be_found_by_index_id_and_file(dataset: Dataset) -> None:
    text = Parsed(dataset.page).text
    for part in ("record 4", "beta-5", "beta/absent.jpg", "record 5", "beta-6", "beta/cut.jpg", "record 7"):
        assert part in text, part
    download = next(link for link in Parsed(dataset.page).all("a") if link.get("download") == "rejected.csv")
    content = base64.b64decode(download["href"].partition("base64,")[2]).decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(content)))
    assert [row["index"] for row in rows] == ["4", "5", "6", "7", "8"]
    assert rows[0]["reason"] == "image_missing"
    assert (rows[0]["id"], rows[0]["source"], rows[0]["image"]) == ("beta-5", "beta", "absent.jpg")


def test_cells_of_the_download_are_no_formulas() -> None:
    row = RejectedRecord(1, "=1+1", "@SUM(A1)", "-2.jpg", "leak", "+cmd")
    download = page._download(Rejected({"leak": 1}, {"leak": [row]}))
    assert download is not None
    content = base64.b64decode(download.uri.partition("base64,")[2]).decode("utf-8-sig")
    [cells] = list(csv.reader(io.StringIO(content)))[1:]
    assert cells[1:4] == ["'=1+1", "'@SUM(A1)", "'-2.jpg"]
    assert cells[-1] == "'+cmd"


def test_text_of_records_is_neither_markup_nor_reordered(dataset: Dataset) -> None:
    parsed = Parsed(dataset.page)
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in parsed.all("img"))
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    assert len(parsed.all("script")) == 1
    assert "\u202e" not in dataset.page
    assert "⟨U+202E⟩" in parsed.text
    assert HOSTILE.partition(" \u202e")[0] in parsed.text
    assert "{{ 7 * 7 }}" in parsed.text
    markdown = report_markdown(dataset.result)
    assert "<" not in markdown.replace("&lt;", "")


def test_long_texts_and_lone_surrogates_are_shown_in_part(tmp_path: Path) -> None:
    records = [record("s", 0, "A" * 30_000), record("s" * 5000, 1, "b\udcffb"), record("s", 2, "Fine."), ["x" * 10**6]]
    for one in records[:3]:
        one.pop("image")
        one["conversations"][0]["value"] = "What?"
    (tmp_path / "list.json").write_text(json.dumps(records))
    validate(ValidationRequest([tmp_path / "list.json"], tmp_path, skip_images=True), tmp_path / "out")
    content = (tmp_path / "out" / "report.html").read_bytes()
    assert len(content) < 100_000
    assert "(29,720 more characters)" in content.decode()


def test_the_page_refers_to_nothing_outside_but_the_data_docs(dataset: Dataset) -> None:
    parsed = Parsed(dataset.page)
    links = [value for _, attributes in parsed.tags for name, value in attributes.items() if name in ("href", "src")]
    assert {link for link in links if not link.startswith(("data:", "#"))} == {"data_docs/index.html"}
    assert (dataset.out / "data_docs" / "index.html").is_file()
    assert "url(" not in dataset.page
    assert "@import" not in dataset.page
    policy = next(tag["content"] for tag in parsed.all("meta") if tag.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_page_is_the_same_each_time_and_in_another_folder(dataset: Dataset, tmp_path: Path) -> None:
    before = dataset.page
    write_report(dataset.result, dataset.request, dataset.out)
    assert dataset.page == before
    split = [tmp_path / "split0", tmp_path / "split1"]
    for number, folder in enumerate(split):
        validate(dataset.request, folder, 0.1, split=(number, 2))
    validate(dataset.request, tmp_path / "merged", 0.1, merge=split)
    assert (tmp_path / "merged" / "report.html").read_text() == before


def test_a_split_has_no_verdict(dataset: Dataset, tmp_path: Path) -> None:
    validate(dataset.request, tmp_path / "split", 0.1, split=(1, 2))
    text = Parsed((tmp_path / "split" / "report.html").read_text()).text
    assert "A split of the work" in text
    assert "exit status" not in text


def test_boxes_in_text_are_drawn_on_the_image(dataset: Dataset) -> None:
    [box] = Parsed(dataset.page).all("polygon", "box")
    assert box["points"] == "16.0,32.0 48.0,32.0 48.0,57.6 16.0,57.6"  # of 64 pixels: 0.25, 0.5, 0.75, 0.9


def test_findings_are_side_by_side_with_kind_and_score(dataset: Dataset) -> None:
    text = " ".join(Parsed(dataset.page).text.split())
    for part in (
        *("leak · re-encoded · 1 record", "training: alpha/leak.jpg", "evaluation: images/test.jpg"),
        *("near-duplicate · 1 record", "training: beta/again.jpg", "record 3: beta/3.jpg"),
        *("blank · 1 record", "training: beta/blank.png", "matched area 100%"),
        *("7 images with 1 evaluation images", "2 suspicious", "evaluation lists: task.json"),
    ):
        assert part in text, part
    for kind in ("re-encoded", "near-duplicate", "blank"):
        assert FINDINGS[kind].title in text  # type: ignore[index]
        assert FINDINGS[kind].advice in text  # type: ignore[index]
    assert len(Parsed(dataset.page).all("article", "pair")) == 2


def test_overlaps_have_the_shared_area_outlined_on_both_images(found: Dataset) -> None:
    parsed = Parsed(found.page)
    shared = [polygon["points"] for polygon in parsed.all("polygon", "shared")]
    assert shared == ["32.0,0.0 64.0,0.0 64.0,64.0 32.0,64.0", "0.0,0.0 32.0,0.0 32.0,64.0 0.0,64.0"]
    text = " ".join(parsed.text.split())
    for part in ("score 0.83", "matched area 60%", "training: alpha/0.jpg", "evaluation: images/test.jpg"):
        assert part in text, part


def test_an_image_that_cannot_be_read_is_noted(dataset: Dataset) -> None:
    notes = re.findall(r'class="frame none">(.*?)</div>', dataset.page)
    assert sorted(notes) == ["The image ends early or is corrupt", "The image file does not exist"]


def test_skipped_images_are_said_to_be_skipped(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, skip_images=True, against=())
    parsed = Parsed(dataset.page)
    assert "Images were not checked (--skip-images)" in " ".join(parsed.text.split())
    assert not parsed.all("img")


@pytest.mark.parametrize("records", [[], [[1], [2]]], ids=["empty", "all rejected"])
def test_a_list_of_which_nothing_is_accepted(records: list[Any], tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps(records))
    validate(ValidationRequest([tmp_path / "list.json"], tmp_path), tmp_path / "out")
    text = Parsed((tmp_path / "out" / "report.html").read_text()).text
    assert f"no record of {len(records)} was accepted" in text
    assert "no evaluation lists were given (--against), so leaks are not found" in text
    assert ("data_docs" in text) == (tmp_path / "out" / "data_docs" / "index.html").is_file()


def test_the_page_is_small_however_many_records_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise is what compresses worst. Every record has its own source and image."""
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    records: list[Any] = []
    (tmp_path / "images").mkdir()
    for number in range(300):
        Image.fromarray(np.roll(noise, number)).save(tmp_path / "images" / f"{number}.png")
        answer = "Ground. " * 300 if number % 2 else "A box [5, 5, 1, 1]. " * 300
        records.append(record("", number, answer, image=f"{number}.png", source_dataset=None))
    (tmp_path / "list.json").write_text(json.dumps(records))
    read: list[str] = []
    thumbnail = page.thumbnails.__globals__["_thumbnail"]
    monkeypatch.setitem(
        page.thumbnails.__globals__,
        "_thumbnail",
        lambda image, *rest: (read.append(image.name), thumbnail(image, *rest))[1],
    )
    validate(ValidationRequest([tmp_path / "list.json"], tmp_path / "images", max_text=10_000), tmp_path / "out")
    most = examples._REJECTED_IMAGES + examples._FINDING_IMAGES + examples._ACCEPTED_IMAGES
    assert 10 < len(read) <= most
    content = (tmp_path / "out" / "report.html").read_text()
    images = sorted(len(image["src"]) for image in Parsed(content).all("img"))
    assert images[-1] <= 19_000
    assert most * images[-1] + page._MAX_CSV * 4 / 3 + 600_000 < 5_000_000
    assert len(content) - sum(images) < 300_000
