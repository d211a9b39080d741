"""Warm start: exact in the chosen block, zero elsewhere, refused if shapes do not match."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from vhm.errors import CheckpointError
from vhm.model import load_model
from vhm.model.projector import read_projector
from vhm.model.warm_start import warm_start


@pytest.fixture
def source() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"0.weight": (192, 128), "0.bias": (192,), "2.weight": (192, 192), "2.bias": (192,)}
    return {f"model.mm_projector.{k}": torch.randn(v, generator=generator) / 10 for k, v in shapes.items()}


@pytest.mark.parametrize("layer", [None, 2, 4, 6])
def test_the_chosen_block_is_bit_equal_and_the_others_zero(sample: Path, source, tmp_path: Path, layer) -> None:
    torch.save(source, tmp_path / "mm_projector.bin")
    report = warm_start(sample / "base", tmp_path / "out", tmp_path / "mm_projector.bin", layer)
    weight = load_model(tmp_path / "out")[0].model.multi_modal_projector.linear_1.weight
    block = {None: 2, 2: 0, 4: 1, 6: 2}[layer]
    for number in range(3):
        columns = weight[:, number * 128 : (number + 1) * 128]
        expected = source["model.mm_projector.0.weight"] if number == block else torch.zeros(192, 128)
        assert torch.equal(columns, expected)
    assert report.projector.source_layer == (layer or 6)
    assert json.loads((tmp_path / "out" / "warm_start.json").read_text()) == json.loads(json.dumps(report.to_json()))


def test_image_features_equal_the_single_layer_models(sample: Path, source, tmp_path: Path) -> None:
    """Computed here from the vision tower's hidden states and the source's two layers."""
    torch.save(source, tmp_path / "p.bin")
    warm_start(sample / "base", tmp_path / "out", tmp_path / "p.bin", 4)
    model = load_model(tmp_path / "out", dtype="float64")[0]
    pixels = torch.randn(1, 3, 168, 168, dtype=torch.float64)
    weights = {key.removeprefix("model.mm_projector."): value.double() for key, value in source.items()}
    with torch.no_grad():
        state = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[4][:, 1:]
        hidden = functional.gelu(state @ weights["0.weight"].T + weights["0.bias"])
        expected = hidden @ weights["2.weight"].T + weights["2.bias"]
        got = model.model.get_image_features(pixels, return_dict=True).pooler_output[0]
    assert float((got - expected[0]).abs().max() / expected.abs().max()) <= 1e-12


def test_a_projector_of_the_models_width_is_loaded_unchanged(sample: Path, source, tmp_path: Path) -> None:
    torch.save(source, tmp_path / "p.bin")
    warm_start(sample / "base", tmp_path / "first", tmp_path / "p.bin")
    warm_start(sample / "base", tmp_path / "second", tmp_path / "first")  # from a Hugging Face directory
    first, second = (
        load_model(tmp_path / name)[0].model.multi_modal_projector.state_dict() for name in ("first", "second")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.mm_projector.0.weight": torch.zeros(192, 99)}, r"projector layer 1 is \(192, 99\)"),
        ({"model.mm_projector.2.bias": torch.zeros(7)}, r"linear_2.bias is \(7,\)"),
        ({"model.mm_projector.2.weight": None}, "lacks linear_2.weight"),
    ],
)
def test_a_shape_mismatch_is_named_with_both_shapes(sample: Path, source, tmp_path: Path, change, message) -> None:
    changed = {key: value for key, value in (source | change).items() if value is not None}
    torch.save(changed, tmp_path / "p.bin")
    with pytest.raises(CheckpointError, match=message):
        warm_start(sample / "base", tmp_path / "out", tmp_path / "p.bin")
    assert not (tmp_path / "out").exists()


def test_a_source_layer_that_the_model_does_not_read_is_refused(sample: Path, source, tmp_path: Path) -> None:
    torch.save(source, tmp_path / "p.bin")
    with pytest.raises(CheckpointError, match=r"--source-layer 5 is not read by the model: it reads \[2, 4, 6\]"):
        warm_start(sample / "base", tmp_path / "out", tmp_path / "p.bin", 5)


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: key,
        lambda key: key.removeprefix("model."),
        lambda key: key.replace("mm_projector.0", "multi_modal_projector.linear_1").replace(
            "mm_projector.2", "multi_modal_projector.linear_2"
        ),
        lambda key: key.replace("model.mm_projector.0", "multi_modal_projector.linear_1").replace(
            "model.mm_projector.2", "multi_modal_projector.linear_2"
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_every_layout_of_a_projector_is_read(source, tmp_path: Path, rename, suffix: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / f"projector{suffix}"
    named = {rename(key): tensor for key, tensor in source.items()}
    torch.save(named, path) if suffix == ".bin" else save_file(named, path)
    tensors = read_projector(path)
    assert torch.equal(tensors["linear_1.weight"], source["model.mm_projector.0.weight"])
    assert torch.equal(tensors["linear_2.bias"], source["model.mm_projector.2.bias"])


def test_the_layer_that_llava_was_trained_on_can_be_read_instead(sample: Path, source, tmp_path: Path) -> None:
    """LLaVA-1.5 was trained on the second-to-last layer: a model that reads it computes the same features."""
    torch.save(source, tmp_path / "p.bin")
    report = warm_start(sample / "base", tmp_path / "out", tmp_path / "p.bin", -2, [2, 4, 5])
    model, _ = load_model(tmp_path / "out")
    assert model.config.vision_feature_layer == [2, 4, 5]
    assert (report.projector.source_layer, report.feature_layers) == (5, [2, 4, 5])
    assert report.projector.exactness.float64 <= 1e-12


def test_a_single_layer_model_is_extended_with_its_own_projector(sample: Path, tmp_path: Path) -> None:
    """This builds VHM's starting point from a LLaVA-1.5 directory alone."""
    from vhm.sample.build import training_texts
    from vhm.sample.tiny_model import build_tiny_base

    build_tiny_base(tmp_path / "single", training_texts(sample), [6])
    report = warm_start(tmp_path / "single", tmp_path / "out", tmp_path / "single", None, [2, 4, 6])
    single, several = (load_model(tmp_path / name, "float64")[0].model for name in ("single", "out"))
    pixels = torch.randn(1, 3, 168, 168, dtype=torch.float64)
    with torch.no_grad():
        expected, got = (m.get_image_features(pixels, return_dict=True).pooler_output[0] for m in (single, several))
    assert float((got - expected).abs().max() / expected.abs().max()) <= 1e-12
    assert report.projector.trained_on == [6]


def test_every_block_is_listed_with_its_norm_and_hash(sample: Path, source, tmp_path: Path) -> None:
    torch.save(source, tmp_path / "p.bin")
    report = warm_start(sample / "base", tmp_path / "out", tmp_path / "p.bin", 4)
    blocks = [entry for entry in report.tensors if entry.name.endswith("linear_1.weight")]
    assert [(entry.layer, entry.state, entry.norm > 0) for entry in blocks] == [
        (2, "zero", False),
        (4, "loaded", True),
        (6, "zero", False),
    ]
    assert blocks[1].sha256 == report.projector.sha256["linear_1.weight"]
    assert blocks[0].sha256 == blocks[2].sha256 != blocks[1].sha256


def test_a_layer_that_does_not_exist_is_refused(sample: Path, source, tmp_path: Path) -> None:
    torch.save(source, tmp_path / "p.bin")
    with pytest.raises(CheckpointError, match="feature layer 7 does not exist: the vision tower has 6 layers"):
        warm_start(sample / "base", tmp_path / "out", tmp_path / "p.bin", None, [2, 7])


def test_a_projector_of_nan_is_refused(sample: Path, source, tmp_path: Path) -> None:
    source["model.mm_projector.0.bias"][3] = float("nan")
    torch.save(source, tmp_path / "p.bin")
    with pytest.raises(CheckpointError, match=r"model.mm_projector.0.bias holds NaN"):
        warm_start(sample / "base", tmp_path / "out", tmp_path / "p.bin")


class _Canary:
    def __reduce__(self):
        return (Path.touch, (Path("canary"),))


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model.mm_projector.0.weight": _Canary()}, tmp_path / "p.bin")
    with pytest.raises(CheckpointError, match=r"refused|damaged"):
        read_projector(tmp_path / "p.bin")
    assert not (tmp_path / "canary").exists()


def test_the_shipped_projector_is_trained(sample: Path, tmp_path: Path) -> None:
    """It was trained by `align` with one feature layer: its loss must be lower than that of a random one."""
    from tests.support.lists import validate
    from vhm.recipe import load_recipe
    from vhm.sample.build import training_texts
    from vhm.sample.tiny_model import SOURCE_LAYER, build_tiny_base

    build_tiny_base(tmp_path / "single", training_texts(sample), [SOURCE_LAYER])
    warm_start(tmp_path / "single", tmp_path / "trained", sample / "mm_projector.bin")
    validate(sample / "pretrain/list_pretrain.json", sample / "images", tmp_path / "m", "pretrain")
    stage = load_recipe("tiny").stage("align")
    losses = {}
    for name in ("single", "trained"):
        losses[name] = _loss(tmp_path / name, tmp_path / "m" / "manifest.parquet", sample / "images", stage)
    assert losses["trained"] < losses["single"] - 1.0


def _loss(model_directory: Path, manifest: Path, images: Path, stage) -> float:
    from vhm.data.images.transform import ImageTransform
    from vhm.data.index import open_index
    from vhm.recipe import DataRecipe
    from vhm.train.collate import TrainingSet
    from vhm.train.engine import LabelledLoss
    from vhm.train.samples import EncodedSamples, encode_samples

    model, processor = load_model(model_directory)
    encode_samples(manifest.parent / "samples", open_index(manifest), processor.tokenizer, stage, {})
    encoded = EncodedSamples(manifest.parent / "samples")
    transform, index = ImageTransform.from_processor(processor), open_index(manifest)
    samples = TrainingSet(encoded, index, str(images), processor.tokenizer, transform, 144, DataRecipe())
    batch = samples.batch(list(range(0, len(samples), 40)))
    with torch.no_grad():
        return float(LabelledLoss(model)(batch)) / batch.targets
