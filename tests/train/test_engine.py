"""The loss over labelled tokens, gradient accumulation and the learning rate."""

from __future__ import annotations

from pathlib import Path

import torch

from vhm.data.index import open_index
from vhm.recipe import DataRecipe, load_recipe
from vhm.train.collate import TrainingSet
from vhm.train.engine import LabelledLoss, accumulation_steps, learning_rate
from vhm.train.prepare import stage_transform
from vhm.train.samples import EncodedSamples, encode_samples


def training_set(manifest: Path, images: Path, processor, stage, folder: Path) -> TrainingSet:
    index = open_index(manifest)
    encode_samples(folder / "samples", index, processor.tokenizer, stage, {})
    samples, data = EncodedSamples(folder / "samples"), DataRecipe()
    transform = stage_transform(stage, data, processor)
    return TrainingSet(samples, index, str(images), processor.tokenizer, transform, 144, data)


def test_the_loss_equals_the_loss_of_full_logits(base, cut: Path, manifests: Path, tmp_path: Path) -> None:
    """Against transformers' own loss, with the embedding rows that belong to no token masked."""
    model, processor = base
    stage = load_recipe("tiny").stage("sft")
    samples = training_set(manifests / "sft" / "manifest.parquet", cut / "images", processor, stage, tmp_path)
    batch = samples.batch([0, 5, 11, 17])
    with torch.no_grad():
        logits = model(
            input_ids=batch.input_ids, pixel_values=batch.pixel_values, attention_mask=batch.attention_mask
        ).logits
        logits[..., len(processor.tokenizer) - 1 :] = -torch.inf
        expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())
        got = LabelledLoss(model)(batch) / batch.targets
    assert abs(float(got) - float(expected)) < 1e-5


def test_an_empty_micro_batch_adds_no_loss(base, cut: Path, manifests: Path, tmp_path: Path) -> None:
    stage = load_recipe("tiny").stage("sft")
    samples = training_set(manifests / "sft" / "manifest.parquet", cut / "images", base[1], stage, tmp_path)
    batch = samples.batch([])
    assert batch.targets == 0
    with torch.no_grad():
        assert float(LabelledLoss(base[0])(batch)) == 0.0


def test_accumulation_follows_from_the_global_batch() -> None:
    stage = load_recipe("vhm-7b").stage("pretrain")
    assert [accumulation_steps(stage, world) for world in (1, 2, 8, 16)] == [16, 8, 2, 1]


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    stage = load_recipe("tiny", ["stages.sft.warmup_ratio=0.1"]).stage("sft")
    rates = [learning_rate(stage, step, 100) for step in range(100)]
    assert rates[0] == stage.learning_rate / 10
    assert max(rates) == rates[9] == rates[10] == stage.learning_rate
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3 * stage.learning_rate
