"""A real KServe server over loopback: V1, V2, OpenAI, the page in a real browser, and refused requests."""

from __future__ import annotations

import base64
import concurrent.futures
import io
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.browser import chromium
from vhm.data.images.options import ImageOptions, SourceOptions
from vhm.data.images.transform import Aspect, ImageTransform
from vhm.inference.generator import Generator, Question, Sampling
from vhm.inference.prompts import build_prompt
from vhm.serve.client import ask, local_server

QUESTION = "Is there water in this image?"


@pytest.fixture(scope="module")
def url(cut: Path, cut_recipe: Path) -> Iterator[str]:
    with local_server(cut / "base", cut_recipe) as address:
        yield address


@pytest.fixture(scope="module")
def image_file(cut: Path) -> bytes:
    return next((cut / "eval" / "images").rglob("*.jpg")).read_bytes()


@pytest.fixture(scope="module")
def expected(cut: Path, image_file: bytes) -> str:
    """The model's greedy answer, generated without the server."""
    image = np.asarray(Image.open(io.BytesIO(image_file)).convert("RGB"))
    return Generator(cut / "base").generate([Question(image, QUESTION)], Sampling(64))[0].text


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def chat(image_file: bytes, **settings: object) -> dict[str, object]:
    uri = f"data:image/jpeg;base64,{b64(image_file)}"
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": QUESTION}]
    return {"model": "vhm", "messages": [{"role": "user", "content": content}]} | settings


def test_health_and_metrics(url: str) -> None:
    assert httpx.get(f"{url}/v2/health/live").json() == {"live": True}
    assert httpx.get(f"{url}/v2/health/ready").json() == {"ready": True}
    assert "request_predict_seconds" in httpx.get(f"{url}/metrics").text


def test_v1_answers_as_the_generator_does(url: str, image_file: bytes, expected: str) -> None:
    assert ask(url, image_file, QUESTION) == expected


def test_v2_answers_the_same_with_and_without_an_id(url: str, image_file: bytes, expected: str) -> None:
    inputs = [
        {"name": "image", "datatype": "BYTES", "shape": [2], "data": [b64(image_file)] * 2},
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


def test_a_v2_image_that_is_not_text_is_a_400(url: str) -> None:
    inputs = [
        {"name": "image", "datatype": "BYTES", "shape": [1], "data": [7]},
        {"name": "question", "datatype": "BYTES", "shape": [1], "data": [QUESTION]},
    ]
    answer = httpx.post(f"{url}/v2/models/vhm/infer", json={"inputs": inputs}, timeout=60)
    assert (answer.status_code, "base64 text" in answer.json()["error"]) == (400, True), answer.text


def test_openai_client_gets_the_same_answer_streamed_or_not(url: str, image_file: bytes, expected: str) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/openai/v1", api_key="none")
    assert [model.id for model in client.models.list()] == ["vhm"]
    complete = client.chat.completions.create(**chat(image_file))  # type: ignore[call-overload]
    assert complete.choices[0].message.content == expected
    assert complete.usage.total_tokens == complete.usage.prompt_tokens + complete.usage.completion_tokens
    chunks = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(**chat(image_file, stream=True))
    ]  # type: ignore[call-overload]
    assert "".join(chunks) == expected
    assert len(chunks) > 2


def test_openai_max_tokens_stop_and_seed(url: str, image_file: bytes, expected: str) -> None:
    def answer(**settings: object) -> dict:
        return httpx.post(f"{url}/openai/v1/chat/completions", json=chat(image_file, **settings), timeout=60).json()

    short = answer(max_tokens=3)
    assert short["usage"]["completion_tokens"] == 3
    assert short["choices"][0]["finish_reason"] == "length"
    stop = expected[4:7]
    assert answer(stop=[stop])["choices"][0]["message"]["content"] == expected[: expected.index(stop)]
    sampled = [answer(temperature=1.5, seed=s)["choices"][0]["message"]["content"] for s in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_concurrent_clients_get_the_same_answer_as_one(url: str, image_file: bytes, expected: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(url, image_file, QUESTION), range(24)))
    assert answers == [expected] * 24


@pytest.mark.parametrize(
    ("image", "question", "words"),
    [
        ("?", QUESTION, "not valid base64"),
        (b64(b"no image"), QUESTION, "is not one of"),
        ("https://example.org/a.jpg", QUESTION, "URLs are not opened"),
        ("file:///etc/passwd", QUESTION, "URLs are not opened"),
        (None, QUESTION, "must be"),
        ("ok", "", "must be text"),
        ("ok", "a</s>b", "special token"),
        ("ok", "x" * 5000, "limit is 4000"),
    ],
)
def test_an_invalid_request_is_a_400_with_a_reason(
    url: str, image_file: bytes, image, question: str, words: str
) -> None:
    instance = {"image": {"b64": b64(image_file) if image == "ok" else image}, "question": question}
    answer = httpx.post(f"{url}/v1/models/vhm:predict", json={"instances": [instance]}, timeout=60)
    assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "gpt"}, 404),
        ({"messages": []}, 400),
        ({"temperature": 9}, 400),
        ({"messages": [{"role": "user", "content": "no image"}]}, 400),
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
def test_openai_errors_have_the_form_of_its_api(url: str, image_file: bytes, change: dict, status: int) -> None:
    answer = httpx.post(f"{url}/openai/v1/chat/completions", json=chat(image_file) | change, timeout=60)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_body_larger_than_the_limit_is_refused_unread(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/models/vhm:predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000000000000\r\n\r\n{"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.slow
def test_the_page_answers_a_question_in_a_browser(url: str, cut: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    path = next((cut / "eval" / "images").rglob("*.jpg"))
    with chromium() as browser:
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        assert page.locator("#ask").is_disabled()
        page.set_input_files("#file", str(path))
        page.fill("#question", QUESTION)
        page.click("#ask")
        expect(page.locator("#ask")).to_be_enabled(timeout=30_000)
        assert page.locator("#answer").text_content() == ask(url, path.read_bytes(), QUESTION)
        page.evaluate("draw('a box [100, 200, 300, 400] and a ring [[[0, 0], [500, 0], [500, 500]]]')")
        assert page.locator("#shapes polygon").count() == 2
        assert page.locator("#shapes polygon").nth(1).get_attribute("points") == "100,200 300,200 300,400 100,400"
        page.screenshot(path=str(tmp_path / "page.png"))
        assert problems == []
        browser.close()


def test_a_tiff_is_decoded_with_the_bands_that_the_model_was_trained_on(url: str) -> None:
    """The served model's processor names no bands; one that does is used without a server."""
    from types import SimpleNamespace

    from vhm.recipe import ServingRecipe
    from vhm.sample.sources import fetch
    from vhm.serve.predictor import read_question

    content = fetch("solaris").read("preproc_tutorial/ms1.tif")
    assert ask(url, content, QUESTION)

    def decoded(bands: tuple[int, int, int] | None) -> np.ndarray:
        transform = ImageTransform(168, options=SourceOptions(ImageOptions(bands)))
        generator = SimpleNamespace(special_tokens=frozenset(), transform=transform)
        scheduler = SimpleNamespace(limits=ServingRecipe(), generator=generator)
        return read_question(content, QUESTION, scheduler, "it").image  # type: ignore[arg-type]

    assert np.array_equal(decoded((3, 2, 1)), decoded(None)[:, :, ::-1])


@pytest.mark.parametrize("aspect", ["crop", "pad"])
def test_the_served_model_receives_the_pixels_of_its_own_processor(
    cut: Path, cut_recipe: Path, tmp_path: Path, aspect: Aspect
) -> None:
    """Over HTTP as in the generator, and both as plain transformers, whether the model crops or pads."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = tmp_path / "model"
    shutil.copytree(cut / "base", model)
    processor = AutoProcessor.from_pretrained(model)
    replace(ImageTransform.from_processor(processor), aspect=aspect).store_in(processor)
    processor.save_pretrained(model)

    plain, processor = AutoModelForImageTextToText.from_pretrained(model), AutoProcessor.from_pretrained(model)
    pixels = np.random.default_rng(0).integers(0, 255, (60, 150, 3), dtype=np.uint8)
    text = build_prompt(QUESTION, processor)
    inputs = processor(images=pixels, text=text, add_special_tokens=False, return_tensors="pt")
    output = plain.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]
    expected = processor.tokenizer.decode(output, skip_special_tokens=True).strip()

    generator = Generator(model)
    shown = generator.transform.normalise([generator.transform.resize(pixels)])
    assert float((shown - inputs["pixel_values"]).abs().max()) <= 1e-6
    assert generator.generate([Question(pixels, QUESTION)], Sampling(64))[0].text == expected
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    with local_server(model, cut_recipe) as url:
        assert ask(url, png.getvalue(), QUESTION) == expected
