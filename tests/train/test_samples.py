"""Encoding of records: equal to the encoder's, done once, skipped records counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhm.data.encode import encode_compact
from vhm.data.index import open_index
from vhm.errors import TrainError
from vhm.recipe import load_recipe
from vhm.train import samples as encoding
from vhm.train.samples import EncodedSamples, encode_samples


def test_samples_are_encoded_once_per_source(base, manifests: Path, tmp_path: Path) -> None:
    stage, tokenizer = load_recipe("tiny").stage("sft"), base[1].tokenizer
    index = open_index(manifests / "sft" / "manifest.parquet")
    encode_samples(tmp_path / "samples", index, tokenizer, stage, {"data": 1})
    samples = EncodedSamples(tmp_path / "samples")
    expected = [encode_compact(record, tokenizer, stage.template, stage.max_length) for record in index]
    assert [samples[i] for i in range(len(samples))] == expected
    assert samples.lengths(144).tolist() == [len(sample.input_ids) + 143 for sample in expected]
    written = (tmp_path / "samples" / "tokens").stat().st_mtime_ns
    encode_samples(tmp_path / "samples", index, tokenizer, stage, {"data": 1})
    assert (tmp_path / "samples" / "tokens").stat().st_mtime_ns == written
    encode_samples(tmp_path / "samples", index, tokenizer, stage, {"data": 2})
    assert (tmp_path / "samples" / "tokens").stat().st_mtime_ns > written


def test_worker_processes_encode_the_same_samples(
    base, manifests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, tokenizer = load_recipe("tiny", ["stages.sft.max_length=60"]).stage("sft"), base[1].tokenizer
    index = open_index([manifests / "sft", manifests / "pretrain"])
    encode_samples(tmp_path / "in_process", index, tokenizer, stage, {})
    monkeypatch.setattr(encoding, "_IN_PROCESS", 0)
    monkeypatch.setattr(encoding, "_CHUNK", 97)
    encode_samples(tmp_path / "workers", index, tokenizer, stage, {})
    names = sorted(path.name for path in (tmp_path / "in_process").iterdir())
    assert names == ["about.json", "has_image", "records", "starts", "tokens"]
    for name in names:
        assert (tmp_path / "in_process" / name).read_bytes() == (tmp_path / "workers" / name).read_bytes()


def test_records_that_cannot_be_trained_on_are_counted(base, manifests: Path, tmp_path: Path) -> None:
    stage = load_recipe("tiny", ["stages.sft.max_length=60"]).stage("sft")
    index = open_index(manifests / "sft" / "manifest.parquet")
    encode_samples(tmp_path / "samples", index, base[1].tokenizer, stage, {})
    samples = EncodedSamples(tmp_path / "samples")
    assert samples.truncated + samples.skipped.total() > 0
    assert len(samples) + samples.skipped.total() == len(index)
    stage = load_recipe("tiny", ["stages.sft.max_length=3"]).stage("sft")
    with pytest.raises(TrainError, match="no record can be trained on"):
        encode_samples(tmp_path / "none", index, base[1].tokenizer, stage, {})
