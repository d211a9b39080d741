"""The embedded sample: the same bytes each time, provable answers, no ground shared between the splits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vhm.errors import InputError
from vhm.evaluate.tasks import TASKS, tasks_in
from vhm.io import sha256_tree
from vhm.sample import claims
from vhm.sample.chips import Chip, all_chips
from vhm.sample.questions import FAMILIES
from vhm.sample.scenes import Label, all_scenes
from vhm.sample.sources import SOURCES, fetch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def chips() -> list[Chip]:
    return list(all_chips())


def chip(labels: tuple[Label, ...] = (), truncated: tuple[Label, ...] = (), **changes: object) -> Chip:
    """A 100 px chip at 0.1 m with complete tree labels, for which the rules are worked out by hand."""
    values = dict(
        name="c", scene="s", package="p", split="train", pixels=np.zeros((100, 100, 3), np.uint8), gsd=0.1,
        sensor="a", location="b", modality="natural-colour", scene_class=None, setting=None, labels=labels,
        truncated=truncated, complete=frozenset({"tree"}), absent=frozenset(), cover={}, road=False,
    ) | changes  # fmt: skip
    return Chip(**values)  # type: ignore[arg-type]


def tree(*box: float) -> Label:
    return Label("tree", box)  # type: ignore[arg-type]


def test_building_twice_gives_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    from vhm.sample import build_sample

    build_sample(tmp_path / "again")
    assert sha256_tree(tmp_path / "again") == sha256_tree(sample)


def test_data_dvc_names_the_bytes_of_the_sample(sample: Path) -> None:
    """DVC's directory hash, worked out here: md5 over the sorted list of relpaths and md5s."""
    import hashlib

    import yaml

    entries = [
        {"md5": hashlib.md5(path.read_bytes()).hexdigest(), "relpath": path.relative_to(sample).as_posix()}
        for path in sample.rglob("*")
        if path.is_file()
    ]
    listed = json.dumps(sorted(entries, key=lambda e: e["relpath"]), sort_keys=True)
    expected = yaml.safe_load((ROOT / "data.dvc").read_text())["outs"][0]["md5"]
    assert hashlib.md5(listed.encode()).hexdigest() + ".dir" == expected


def test_training_and_evaluation_share_no_ground(chips: list[Chip]) -> None:
    """Rectangles in scene pixels; the two Landsat scenes overlap and are compared in common coordinates."""

    def footprint(c: Chip) -> tuple[str, int, int, int]:
        x, y = (int(v) for v in c.name.split("_")[-2:])
        if c.scene == "landsat_224078":
            return "landsat", x + 778, y + 346, c.size
        if c.scene == "landsat_224077":
            return "landsat", x, y, c.size
        if c.scene == "rotterdam_ms1":  # half the resolution of the panchromatic scene over the same ground
            return "rotterdam1", 2 * x, 2 * y, 2 * c.size
        return ("rotterdam1" if c.scene == "rotterdam_pan1" else c.scene), x, y, c.size

    training = [footprint(c) for c in chips if c.split == "train"]
    for scene, x, y, size in (footprint(c) for c in chips if c.split == "eval"):
        for other, ox, oy, osize in training:
            overlaps = x < ox + osize and ox < x + size and y < oy + osize and oy < y + size
            assert not (scene == other and overlaps), (scene, x, y, ox, oy)


def test_chips_are_many_and_small(chips: list[Chip]) -> None:
    assert 200 <= len(chips) <= 400
    assert max(c.size for c in chips) <= 336
    assert len({c.name for c in chips}) == len(chips)


def test_every_family_of_the_benchmark_has_questions(sample: Path) -> None:
    files = {task.file for task in TASKS}
    assert {family.file for family in FAMILIES if family.file} <= files
    types = {task.type for task in tasks_in(sample / "eval")}
    assert types == {task.type for task in TASKS}
    assert all(json.loads((sample / "eval" / f.file).read_text()) for f in FAMILIES if f.file)


def test_presence_is_balanced_in_evaluation(sample: Path) -> None:
    answers = [r["conversations"][1]["value"] for r in json.loads((sample / "eval/presence_mo_dota.json").read_text())]
    assert answers.count("yes") == answers.count("no") > 20


def test_absence_is_claimed_only_where_it_is_proven() -> None:
    assert claims.present(chip(), "tree") is None
    assert claims.present(chip(absent=frozenset({"tree"})), "tree") is False
    assert claims.present(chip(), "building") is None
    assert claims.present(chip((tree(1, 1, 9, 9),)), "tree") is True


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.10, 0.2, True), (0.09, 0.2, None), (0.0, 0.005, False), (0.0, 0.006, None)]
)
def test_cover_needs_a_margin_on_both_sides(low: float, high: float, expected: bool | None) -> None:
    assert claims.present(chip(cover={"water": (low, high)}), "water") is expected


def test_landsat_never_proves_that_there_is_no_water(chips: list[Chip]) -> None:
    assert not [c.name for c in chips if c.scene.startswith("landsat") and claims.present(c, "water") is False]


def test_counts_need_complete_labels_and_exclude_truncated_boxes() -> None:
    assert claims.count(chip((tree(1, 1, 9, 9),), (tree(-5, 0, 5, 9),)), "tree") == 1
    assert claims.count(chip((tree(1, 1, 9, 9),), complete=frozenset()), "tree") is None
    assert claims.count(chip(), "tree") is None
    assert claims.count(chip(absent=frozenset({"tree"})), "tree") == 0


def test_grounding_needs_one_clearly_largest_object() -> None:
    large, small, similar = tree(10, 10, 60, 60), tree(70, 70, 80, 80), tree(50, 50, 95, 95)
    assert claims.clearly_largest(chip((large, small)), "tree") == large
    assert claims.clearly_largest(chip((large, similar)), "tree") is None
    assert claims.clearly_largest(chip((small,), (tree(-50, -50, 30, 30),)), "tree") is None


def test_positions_near_a_boundary_are_not_asked() -> None:
    assert claims.grid_cell(chip(), (0, 0, 20, 20)) == "top left"
    assert claims.grid_cell(chip(), (40, 40, 60, 60)) == "centre"
    assert claims.grid_cell(chip(), (23, 40, 43, 60)) is None
    assert claims.direction(chip(), (70, 40, 80, 50), (10, 42, 20, 52)) == "right"
    assert claims.direction(chip(), (70, 70, 80, 80), (10, 10, 20, 20)) is None


def test_hidden_buildings_are_compared_but_are_no_answer() -> None:
    visible, hidden = Label("building", (0, 0, 20, 20)), Label("hidden building", (30, 30, 80, 80))
    assert claims.clearly_largest(chip((visible, hidden)), "building") is None
    assert claims.clearly_largest(chip((visible,)), "building") == visible


def test_normalised_coordinates_stay_below_a_thousand() -> None:
    assert claims.normalised(chip(), (0, 25, 50, 100)) == [0, 250, 500, 999]


def test_scenes_hold_the_labels_that_their_packages_publish() -> None:
    counts = {scene.name: len(scene.labels) for scene in all_scenes()}
    assert {name: counts[name] for name in ("yell541", "yell528", "osbs029", "soap061", "atlanta")} == {
        "yell541": 279,
        "yell528": 574,
        "osbs029": 61,
        "soap061": 37,
        "atlanta": 43,
    }


def test_without_network_and_cache_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VHM_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InputError, match=r"put spyndex-0.12.0-py3-none-any.whl into"):
        fetch("spyndex")


def test_a_damaged_cache_entry_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VHM_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    path = tmp_path / "packages" / SOURCES["spyndex"].filename
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a wheel")
    with pytest.raises(InputError, match="cannot download"):
        fetch("spyndex")
    assert not path.exists()
