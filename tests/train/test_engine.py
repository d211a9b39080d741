"""The loss over labelled tokens, gradient accumulation and the learning rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.training import Workshop, largest_difference
from vhm.data.index import open_index
from vhm.model import load_model
from vhm.recipe import DataRecipe, load_recipe
from vhm.train.collate import Batch, TrainingSet
from vhm.train.engine import LabelledLoss, accumulation_steps, learning_rate
from vhm.train.log import read_log
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


def test_a_batch_without_images_adds_exactly_zero_to_the_gradients_of_tower_and_projector(workshop: Workshop) -> None:
    """Every parameter gets a gradient, as ZeRO needs it; the loss is that of the text alone."""
    model, processor = load_model(workshop.model)
    ids = torch.tensor([processor.tokenizer.encode("red and green and blue")])
    batch = Batch(ids, ids.clone(), torch.ones_like(ids), None)
    loss = LabelledLoss(model)(batch)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if "post_layernorm" not in name}
    seen = {name for name, gradient in gradients.items() if gradient is None or gradient.any()}
    assert not {name for name in seen if "vision_tower" in name or "projector" in name}
    assert {"lm_head.weight", "model.language_model.norm.weight"} <= seen
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1, : len(processor.tokenizer) - 1]  # without the row of <image>
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    assert abs(loss.item() - expected.item()) < 1e-4


@pytest.mark.slow
def test_two_ranks_and_every_zero_stage_equal_one_rank_when_some_records_have_no_image(
    workshop: Workshop, tmp_path: Path
) -> None:
    """With micro-batches of one sample, a rank often has no image while the other has one."""
    for name, stage, processes in (("one", 0, "1"), *((f"zero{stage}", stage, "2") for stage in range(4))):
        recipe = workshop.recipe(tmp_path / f"{name}.yaml", zero_stage=stage)
        done = workshop.train(recipe, tmp_path / name, "--nproc", processes)
        assert done.returncode == 0, done.stderr
    assert largest_difference(tmp_path / "one", workshop.model) > 1e-2
    # Adam divides by the gradient's size: where it is nearly zero, rounding moves a weight by a share of the rate 1e-2.
    for stage in range(4):
        assert largest_difference(tmp_path / f"zero{stage}", tmp_path / "one") < 1e-4
        losses = [[entry.loss for entry in read_log(tmp_path / n / "train_log.jsonl")] for n in ("one", f"zero{stage}")]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


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
