"""Small files in foreign formats, as other projects publish them; each function writes one and returns its path."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

SIZE = (200, 100)


def image_bytes(number: int, format_: str = "PNG") -> bytes:
    """A small image that differs from all others."""
    image = Image.linear_gradient("L").resize(SIZE).convert("RGB")
    image.putpixel((number, 3), (255, number, 9))
    content = io.BytesIO()
    image.save(content, format_)
    return content.getvalue()


def write_images(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        format_ = {".jpg": "JPEG", ".tif": "TIFF"}.get(Path(name).suffix, "PNG")
        (folder / name).write_bytes(image_bytes(number, format_))


def _json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False))
    return path


def _lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def turns(*texts: str, speakers: tuple[str, str] = ("human", "gpt")) -> list[dict[str, str]]:
    return [{"from": speakers[n % 2], "value": text} for n, text in enumerate(texts)]


def messages(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def llava(folder: Path) -> Path:
    write_images(folder, "a.png", "b.png")
    return _json(
        folder / "llava.json",
        [
            {"id": "1", "image": "a.png", "conversations": turns("<image>\nWhat?", "A river.")},
            {"id": "1", "image": ["b.png"], "conversations": turns("What is it?\n<image>", "A lake.")},
            {"id": "3", "conversations": turns("Which planet?", "The Earth.")},
        ],
    )


def sharegpt(folder: Path) -> Path:
    write_images(folder, "images/a.png", "images/b.png")
    speakers = ("user", "assistant")
    return _json(
        folder / "sharegpt.json",
        [
            {
                "images": ["a.png"],
                "conversations": turns("<image>What?", "A river.", speakers=speakers),
                "system": "Be brief.",
            },
            {"images": ["b.png"], "conversations": turns("<image>What?", "A lake.", speakers=speakers), "tools": ""},
        ],
    )


def llama_factory(folder: Path) -> Path:
    write_images(folder, "a.png", "b.png")
    system = [{"role": "system", "content": "Be brief."}]
    return _json(
        folder / "mllm.json",
        [
            {"messages": system + messages("<image>What?", "A river.", "Wide?", "Yes."), "images": ["a.png"]},
            {"messages": messages("<image>What?", "A lake."), "images": ["b.png"]},
        ],
    )


def swift(folder: Path) -> Path:
    write_images(folder, "a.png", "b.png")
    parts = [{"type": "image", "image": str(folder / "b.png")}, {"type": "text", "text": "What?"}]
    path = folder / "swift.jsonl"
    objects = {"ref": ["the ship", "a dock"], "bbox": [[20, 10, 100, 50], [0, 0, 200, 100]]}
    path.write_text(
        _lines(
            [
                {
                    "messages": messages("<image>Find <ref-object> and <ref-object>.", "<bbox>, <bbox>"),
                    "images": [str(folder / "a.png")],
                    "objects": objects,
                },
                {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "A lake."}]},
            ]
        )
    )
    return path


def query(folder: Path) -> Path:
    write_images(folder, "a.png", "b.png")
    path = folder / "query.jsonl.gz"
    rows = [
        {"query": "<image>Wide?", "response": "Yes.", "history": [["Hello.", "Hi."]], "images": ["a.png"]},
        {"query": "Picture 1: <img>b.png</img>\nWhat?", "response": "A lake."},
    ]
    path.write_bytes(gzip.compress(_lines(rows).encode()))
    return path


def alpaca(folder: Path) -> Path:
    write_images(folder, "a.png")
    return _json(
        folder / "alpaca.json",
        [
            {"instruction": "What is shown?", "input": "", "output": "A river.", "images": ["a.png"]},
            {"instruction": "Translate:", "input": "Fluss", "output": "river", "history": [["Hello.", "Hi."]]},
        ],
    )


def csv_captions(folder: Path) -> Path:
    write_images(folder, "a.png", "b.png")
    path = folder / "captions.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["image", "caption"], ["a.png", 'A "wide" river,\nseen from above.'], ["b.png", "A lake."]])
    return path


def tsv_choices(folder: Path) -> Path:
    encoded = [base64.b64encode(image_bytes(number)).decode() for number in range(2)]
    path = folder / "bench.tsv"
    header = "index\timage\tquestion\tA\tB\tanswer\n"
    rows = [f"{number}\t{image}\tWhich one?\triver\tlake\tB\n" for number, image in enumerate(encoded)]
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(header + "".join(rows))
    return path


def parquet(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True)
    for shard in range(2):
        image = {"bytes": image_bytes(shard), "path": "0.png"}  # the same name in both shards
        rows = [{"image": image, "question": f"Is this image {shard}?", "answer": "Yes"}]
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"train-{shard:05d}-of-00002.parquet")
    (folder / "dataset_info.json").write_text("{}")
    return folder


def parquet_messages(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    rows = [
        {"images": [{"bytes": image_bytes(n), "path": None}], "messages": messages("<image>What?", f"Number {n}.")}
        for n in range(2)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return folder / "a.parquet"


def image_folder(folder: Path) -> Path:
    write_images(folder, "train/a.png", "train/b.png")
    rows = [{"file_name": "a.png", "text": "A river."}, {"file_name": "b.png", "text": "A lake."}]
    (folder / "train" / "metadata.jsonl").write_text(_lines(rows))
    return folder


def class_folders(folder: Path) -> Path:
    write_images(folder, "dense_residential/a.png", "river/b.png")
    return folder


def webdataset(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "shard-000000.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in (
            ("000/one.jpg", image_bytes(0, "JPEG")),
            ("000/one.json", json.dumps({"caption": "A river."}).encode()),
            ("000/two.png", image_bytes(1)),
            ("000/two.txt", b"A lake.\n"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def coco_detection(folder: Path) -> Path:
    write_images(folder, "images/a.png", "images/b.png")
    boxes = [[20, 10, 80, 40], [0, 0, 200, 100], [100, 50, 40, 20, 90]]
    annotations = [{"id": n, "image_id": 1, "category_id": 7, "bbox": box, "iscrowd": 0} for n, box in enumerate(boxes)]
    content = {
        "info": {"year": 2024},
        "images": [
            {"id": 1, "file_name": "a.png", "width": 200, "height": 100},
            {"id": 2, "file_name": "b.png", "width": 200, "height": 100},
        ],
        "annotations": annotations,
        "categories": [{"id": 7, "name": "ship"}],
    }
    return _json(folder / "instances.json", content)


def coco_captions(folder: Path) -> Path:
    write_images(folder, "a.png")
    captions = [{"id": n, "image_id": 1, "caption": text} for n, text in enumerate(("A river.", "A wide river."))]
    return _json(folder / "captions.json", {"annotations": captions, "images": [{"id": 1, "file_name": "a.png"}]})


def rsicd(folder: Path) -> Path:
    write_images(folder, "a.png")
    sentences = [{"raw": "A river .", "tokens": ["A", "river"]}, {"raw": "Trees stand near a river ."}]
    return _json(
        folder / "dataset_rsicd.json",
        {"images": [{"filename": "a.png", "imgid": 0, "split": "train", "sentences": sentences}]},
    )


def rsvqa(folder: Path) -> Path:
    write_images(folder, "Images_LR/5.tif")
    questions = [
        {"id": 0, "active": False},
        {
            "id": 1,
            "img_id": 5,
            "type": "presence",
            "question": "Is a road present?",
            "answers_ids": [11],
            "active": True,
        },
        {"id": 2, "img_id": 5, "type": "count", "question": "How many?", "answers_ids": [12], "active": True},
    ]
    answers = [
        {"id": 10, "active": False},
        {"id": 11, "question_id": 1, "answer": "yes", "active": True},
        {"id": 12, "question_id": 2, "answer": "3", "active": True},
    ]
    _json(folder / "LR_split_train_answers.json", {"answers": answers})
    _json(folder / "LR_split_train_images.json", {"images": [{"id": 5, "questions_ids": [1, 2], "active": True}]})
    return _json(folder / "LR_split_train_questions.json", {"questions": questions})


def geochat(folder: Path) -> Path:
    write_images(folder, "a.png", "b.png")
    return _json(
        folder / "GeoChat_Instruct.json",
        [
            {
                "id": "1",
                "image": "a.png",
                "conversations": turns("<image>\n[refer] <p>the ship</p>", "<p>ship</p> {<25><38><75><62>|<90>}"),
            },
            {
                "id": "2",
                "image": "b.png",
                "conversations": turns(
                    "<image>\n[refer] a dock", "{<0><0><100><100>|<0>}<delim>{<40><40><60><60>|<45>}"
                ),
            },
        ],
    )


def vrsbench_annotation(folder: Path) -> Path:
    write_images(folder, "Images/P1.png", "Images/P2.png")
    for number in (1, 2):
        content = {
            "image": f"P{number}.png",
            "source": "DOTA",
            "caption": f"A harbour with {number} ships.",
            "objects": [
                {
                    "obj_id": 0,
                    "referring_sentence": "The large ship",
                    "obj_coord": [0.1, 0.2, 0.5, 1.02],
                    "obj_cls": "ship",
                }
            ],
            "qa_pairs": [{"ques_id": 0, "question": "How many ships?", "type": "quantity", "answer": str(number)}],
        }
        _json(folder / f"P{number}.json", content)
    return folder


MAKERS: dict[str, tuple[Callable[[Path], Path], int]] = {  # name: (writes the source, records of its list)
    "llava": (llava, 3),
    "sharegpt": (sharegpt, 2),
    "llama-factory": (llama_factory, 2),
    "ms-swift": (swift, 2),
    "query": (query, 2),
    "alpaca": (alpaca, 2),
    "csv": (csv_captions, 2),
    "tsv": (tsv_choices, 2),
    "parquet": (parquet, 2),
    "parquet messages": (parquet_messages, 2),
    "image folder": (image_folder, 2),
    "class folders": (class_folders, 2),
    "webdataset": (webdataset, 2),
    "coco detection": (coco_detection, 1),
    "coco captions": (coco_captions, 2),
    "rsicd": (rsicd, 2),
    "rsvqa": (rsvqa, 2),
    "geochat": (geochat, 2),
    "vrsbench": (vrsbench_annotation, 6),
}
