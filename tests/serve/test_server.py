"""A real KServe server over loopback: V1, V2, OpenAI, the page in a real browser, and what it refuses."""

from __future__ import annotations

import base64
import concurrent.futures
import io
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from vhm.data.images.transform import ImageTransform
from vhm.inference.generator import Generator, Question, Sampling
from vhm.serve.client import ask, local_server
from vhm.serve.golden import Golden, draw_answer

QUESTION = "Is there water in this image?"


@pytest.fixture(scope="module")
def url(cut: Path, cut_recipe: Path) -> Iterator[str]:
    with local_server(cut / "base", cut_recipe) as address:
        yield address


@pytest.fixture(scope="module")
def picture(cut: Path) -> bytes:
    return next((cut / "eval" / "images").rglob("*.jpg")).read_bytes()


@pytest.fixture(scope="module")
def expected(cut: Path, picture: bytes) -> str:
    """The model's own greedy answer, generated without the server."""
    image = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    return Generator(cut / "base").generate([Question(image, QUESTION)], Sampling(64))[0].text


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def chat(picture: bytes, **settings: object) -> dict[str, object]:
    uri = f"data:image/jpeg;base64,{b64(picture)}"
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": QUESTION}]
    return {"model": "vhm", "messages": [{"role": "user", "content": content}]} | settings


def test_health_and_metrics(url: str) -> None:
    assert httpx.get(f"{url}/v2/health/live").json() == {"live": True}
    assert httpx.get(f"{url}/v2/health/ready").json() == {"ready": True}
    assert "request_predict_seconds" in httpx.get(f"{url}/metrics").text


def test_v1_gives_the_models_own_answer(url: str, picture: bytes, expected: str) -> None:
    assert ask(url, picture, QUESTION) == expected


def test_v2_gives_the_same_answer_with_and_without_an_id(url: str, picture: bytes, expected: str) -> None:
    inputs = [
        {"name": "image", "datatype": "BYTES", "shape": [2], "data": [b64(picture)] * 2},
        {"name": "question", "datatype": "BYTES", "shape": [2], "data": [QUESTION] * 2},
    ]
    for extra in ({}, {"id": "seven"}):
        answer = httpx.post(f"{url}/v2/models/vhm/infer", json={"inputs": inputs} | extra, timeout=60)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["outputs"][0] | {"parameters": None} == {
            "name": "answer", "shape": [2], "datatype": "BYTES", "data": [expected] * 2, "parameters": None,
        }  # fmt: skip
        assert body["id"] == extra.get("id", body["id"])


def test_openai_client_whole_and_streamed(url: str, picture: bytes, expected: str) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/openai/v1", api_key="none")
    assert [model.id for model in client.models.list()] == ["vhm"]
    whole = client.chat.completions.create(**chat(picture))  # type: ignore[call-overload]
    assert whole.choices[0].message.content == expected
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    pieces = [
        chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**chat(picture, stream=True))
    ]  # type: ignore[call-overload]
    assert "".join(pieces) == expected
    assert len(pieces) > 2


def test_openai_limits_stop_and_seed(url: str, picture: bytes, expected: str) -> None:
    def said(**settings: object) -> dict:
        return httpx.post(f"{url}/openai/v1/chat/completions", json=chat(picture, **settings), timeout=60).json()

    short = said(max_tokens=3)
    assert short["usage"]["completion_tokens"] == 3
    assert short["choices"][0]["finish_reason"] == "length"
    stop = expected[4:7]
    assert said(stop=[stop])["choices"][0]["message"]["content"] == expected[: expected.index(stop)]
    sampled = [said(temperature=1.5, seed=s)["choices"][0]["message"]["content"] for s in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_many_clients_get_the_answers_that_one_gets(url: str, picture: bytes, expected: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(url, picture, QUESTION), range(24)))
    assert answers == [expected] * 24


@pytest.mark.parametrize(
    ("image", "question", "words"),
    [
        ("?", QUESTION, "not valid base64"),
        (b64(b"no picture"), QUESTION, "is not one of"),
        ("https://example.org/a.jpg", QUESTION, "addresses are not opened"),
        ("file:///etc/passwd", QUESTION, "addresses are not opened"),
        (None, QUESTION, "must be"),
        ("ok", "", "must be text"),
        ("ok", "a</s>b", "special token"),
        ("ok", "x" * 5000, "limit is 4000"),
    ],
)
def test_bad_requests_are_400_with_a_reason(url: str, picture: bytes, image, question: str, words: str) -> None:
    instance = {"image": {"b64": b64(picture) if image == "ok" else image}, "question": question}
    answer = httpx.post(f"{url}/v1/models/vhm:predict", json={"instances": [instance]}, timeout=60)
    assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "gpt"}, 404),
        ({"messages": []}, 400),
        ({"temperature": 9}, 400),
        ({"messages": [{"role": "user", "content": "no picture"}]}, 400),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x"}}]}
                ]
            },
            400,
        ),
    ],
)
def test_openai_errors_have_its_form(url: str, picture: bytes, change: dict, status: int) -> None:
    answer = httpx.post(f"{url}/openai/v1/chat/completions", json=chat(picture) | change, timeout=60)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_body_beyond_the_limit_is_refused_unread(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/models/vhm:predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000000000000\r\n\r\n{"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.slow
def test_a_person_asks_through_the_page(url: str, cut: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Debian's chromium is not installed (CI installs it)")
    picture = next((cut / "eval" / "images").rglob("*.jpg"))
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        assert page.locator("#ask").is_disabled()
        page.set_input_files("#file", str(picture))
        page.fill("#question", QUESTION)
        page.click("#ask")
        expect(page.locator("#ask")).to_be_enabled(timeout=30_000)
        assert page.locator("#answer").text_content() == ask(url, picture.read_bytes(), QUESTION)
        page.evaluate("draw('a box [100, 200, 300, 400] and a ring [[[0, 0], [500, 0], [500, 500]]]')")
        assert page.locator("#shapes polygon").count() == 2
        assert page.locator("#shapes polygon").nth(1).get_attribute("points") == "100,200 300,200 300,400 100,400"
        page.screenshot(path=str(tmp_path / "page.png"))
        assert problems == []
        browser.close()


def test_the_drawn_answer_shows_both_boxes() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (100, 50)).save(buffer, "PNG")
    drawn = draw_answer(
        buffer.getvalue(), Golden("grounding", "a", "Give the box.", "[20, 10, 60, 40]", "[500, 200, 900, 800]")
    )
    image = Image.open(io.BytesIO(drawn)).convert("RGB")
    assert image.getpixel((96, 100)) == (40, 200, 90)  # 20 px of 100 at 480 px wide
    assert image.getpixel((432, 100)) == (255, 77, 61)  # 900 thousandths


def test_a_tiff_is_shown_in_the_bands_that_the_model_has_learnt(url: str, cut: Path) -> None:
    """The served model has learnt none in particular: one that has is asked beside it, without a server."""
    from types import SimpleNamespace

    from vhm.recipe import ServingRecipe
    from vhm.sample.sources import fetch
    from vhm.serve.predictor import question

    content = fetch("solaris").read("preproc_tutorial/ms1.tif")
    assert ask(url, content, QUESTION)

    def shown(bands: tuple[int, int, int] | None) -> np.ndarray:
        generator = SimpleNamespace(special_tokens=frozenset(), transform=ImageTransform(168, bands=bands))
        scheduler = SimpleNamespace(limits=ServingRecipe(), generator=generator)
        return question(content, QUESTION, scheduler, "it").image  # type: ignore[arg-type]

    assert np.array_equal(shown((3, 2, 1)), shown(None)[:, :, ::-1])
