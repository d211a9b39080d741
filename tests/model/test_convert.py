"""Conversion of a checkpoint in the reference layout, written by the test, to Hugging Face and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.reference_checkpoint import ReferenceModel, all_tensors, vision_tensors, write_reference
from tests.support.slow_llama import SlowLlama
from vhm.errors import CheckpointError, InputError
from vhm.io import read_json
from vhm.model import load_model
from vhm.model.convert import convert
from vhm.model.weights import ShardWriter, TensorSpec

MAIN, REST = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"


def equal(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    kept = {name for name in before if not name.endswith(("inv_freq", "position_ids"))}
    assert set(after) == kept
    return all(torch.equal(before[n], after[n]) and before[n].dtype == after[n].dtype for n in kept)


def change(root: Path, **changes: object) -> None:
    path = root / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- layouts: each is restored bit for bit ------------------------------------------------------


def vision_in_the_main_dict(root: Path) -> None:
    rest = torch.load(root / REST, weights_only=True)
    tower = torch.load(root / "vision_tower" / "pytorch_model.bin", weights_only=True)
    torch.save(rest | {f"model.vision_tower.vision_tower.{k}": v for k, v in tower.items()}, root / REST)
    (root / "pytorch_model.bin.index.json").unlink()
    (root / "vision_tower" / "pytorch_model.bin").unlink()


def one_file(root: Path) -> None:
    tensors = torch.load(root / MAIN, weights_only=True) | torch.load(root / REST, weights_only=True)
    for name in (MAIN, REST, "pytorch_model.bin.index.json"):
        (root / name).unlink()
    torch.save(tensors, root / "pytorch_model.bin")


def safetensors_shards(root: Path) -> None:
    names = {MAIN: "model-00001-of-00002.safetensors", REST: "model-00002-of-00002.safetensors"}
    index = json.loads((root / "pytorch_model.bin.index.json").read_text())
    for old, new in names.items():
        save_file(torch.load(root / old, weights_only=True), root / new)
        (root / old).unlink()
    (root / "pytorch_model.bin.index.json").unlink()
    index["weight_map"] = {key: names[file] for key, file in index["weight_map"].items()}
    (root / "model.safetensors.index.json").write_text(json.dumps(index))


def full_precision_tower(root: Path) -> None:
    torch.save(vision_tensors(torch.float32), root / "vision_tower" / "pytorch_model.bin")


def format_before_zip_files(root: Path) -> None:
    tensors = torch.load(root / REST, weights_only=True)
    torch.save(tensors, root / REST, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    "layout",
    [
        lambda root: None,
        vision_in_the_main_dict,
        one_file,
        safetensors_shards,
        full_precision_tower,
        format_before_zip_files,
    ],
)
def test_a_round_trip_is_bit_identical(reference: Path, tmp_path: Path, layout) -> None:
    layout(reference)
    convert(reference, tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "back", to="reference")
    assert equal(all_tensors(reference), all_tensors(tmp_path / "back"))
    for name in ("config.json", "tokenizer_config.json", "vision_tower/config.json"):
        assert read_json(tmp_path / "back" / name) == read_json(reference / name)
    assert (tmp_path / "back" / "tokenizer.model").read_bytes() == (reference / "tokenizer.model").read_bytes()


@pytest.mark.parametrize(
    ("dtype", "changes"),
    [
        (torch.bfloat16, {}),
        (torch.float32, {"mm_vision_select_layer": -2, "mm_hidden_size": 32}),
        (torch.float16, {"mm_vision_select_layer": [-3, -1], "image_aspect_ratio": None}),
        (torch.float16, {"mm_vision_select_feature": "cls_patch"}),
        (torch.float16, {"mm_projector_type": "linear"}),
        (torch.float16, {"mm_projector_type": "mlp1x_gelu"}),
        (torch.float16, {"rope_scaling": {"type": "linear", "factor": 2.0}, "max_position_embeddings": 512}),
    ],
)
def test_a_converted_model_computes_what_the_reference_does(llama_pieces, tmp_path: Path, dtype, changes) -> None:
    """Features, logits and greedy tokens equal those of CLIP and Llama combined by hand; a round trip is bit-exact."""
    source = write_reference(tmp_path / "source", llama_pieces, dtype, **changes)
    convert(source, tmp_path / "hf")
    model, processor = load_model(tmp_path / "hf", dtype="float32")
    expected = ReferenceModel(source)
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        features = model.model.get_image_features(pixels, return_dict=True).pooler_output[0]
    reference_features = expected.features(pixels)[0]
    bound = 1e-4 * max(1.0, float(reference_features.std()))
    assert float((features - reference_features).abs().max()) <= bound

    ids, _ = SlowLlama(llama_pieces, legacy=False).v1(["<image>\nDescribe the image.", "A river."])
    tokens = 4 + (changes.get("mm_vision_select_feature") == "cls_patch")
    inputs = [i for token in ids for i in [token] * (tokens if token == 32000 else 1)]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([inputs]), pixel_values=pixels).logits[0, :, :32000]
    reference_logits = expected.logits(ids, pixels)
    assert 1 < float(reference_logits.std()) < 6
    assert float((logits - reference_logits).abs().max()) <= 1e-3
    prompt = inputs[:-4]
    output = model.generate(input_ids=torch.tensor([prompt]), pixel_values=pixels, max_new_tokens=8)[0, len(prompt) :]
    assert output.tolist() == expected.greedy(ids[:-4], pixels, 8)

    assert processor.image_processor.do_pad == (changes.get("image_aspect_ratio", "pad") == "pad")
    convert(tmp_path / "hf", tmp_path / "back", to="reference")
    assert equal(all_tensors(source), all_tensors(tmp_path / "back"))


# --- the directory -------------------------------------------------------------------------------


def test_the_converted_directory_is_a_llava_model(reference: Path, tmp_path: Path) -> None:
    mappings = convert(reference, tmp_path / "hf")
    model, processor = load_model(tmp_path / "hf", dtype="float32")
    assert model.config.vision_feature_layer == [1, 2, 3]
    assert model.config.image_token_id == 32000 == processor.tokenizer.convert_tokens_to_ids("<image>")
    assert model.config.architectures == ["LlavaForConditionalGeneration"]
    old = all_tensors(reference)
    for rows, name in (
        (model.get_input_embeddings().weight, "model.embed_tokens.weight"),
        (model.lm_head.weight, "lm_head.weight"),
    ):
        assert rows.shape[0] == 32064
        assert torch.allclose(rows[32000:], old[name].float().mean(0).expand(64, -1), atol=2e-5)
    assert model.generation_config.suppress_tokens == list(range(32000, 32064))
    skipped = {m.source: m.note for m in mappings if m.target is None}
    assert set(skipped.values()) == {"computed from the configuration"}
    assert len(skipped) == 2 + 1
    listed = read_json(tmp_path / "hf" / "conversion.json")["tensors"]
    assert {entry["source"] for entry in listed} == set(old)
    assert all(entry["shape"] and entry["dtype"] for entry in listed)


def test_the_card_and_the_lineage_name_the_origin(reference: Path, tmp_path: Path) -> None:
    import yaml

    convert(reference, tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "other"
    assert head["license_name"] == "research-only"
    assert head["base_model"] == ["lmsys/vicuna-7b-v1.5", "openai/clip-vit-large-patch14-336"]
    assert "For research only" in card
    assert "apply_chat_template" in card
    lineage = read_json(tmp_path / "hf" / "lineage.json")
    assert {entry["of"] for entry in lineage["licences"]} == {"OpenAI CLIP", "VersaD", "Vicuna"}
    assert set(lineage["files"]) >= {"model.safetensors", "config.json", "tokenizer.json", "conversion.json"}


def test_several_shards_have_an_index_that_transformers_reads(reference: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("vhm.model.weights._SHARD_BYTES", 2 * 2**20)
    monkeypatch.setattr("vhm.model.weights._MAPPED_BYTES", 2**20)
    convert(reference, tmp_path / "hf")
    names = [path.name for path in sorted((tmp_path / "hf").glob("*.safetensors"))]
    assert names == [f"model-{i:05d}-of-{len(names):05d}.safetensors" for i in range(1, len(names) + 1)]
    assert len(names) > 2
    load_model(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "back", to="reference")
    assert equal(all_tensors(reference), all_tensors(tmp_path / "back"))


def test_a_separate_vision_tower_may_be_a_complete_clip_model(reference: Path, tmp_path: Path) -> None:
    (reference / "vision_tower").rename(tmp_path / "clip")
    tower = torch.load(tmp_path / "clip" / "pytorch_model.bin", weights_only=True)
    text = {"text_model.final_layer_norm.weight": torch.ones(4), "logit_scale": torch.tensor(1.0)}
    torch.save(tower | text, tmp_path / "clip" / "pytorch_model.bin")
    config = {"model_type": "clip", "vision_config": json.loads((tmp_path / "clip" / "config.json").read_text())}
    (tmp_path / "clip" / "config.json").write_text(json.dumps(config))
    change(reference, mm_vision_tower="elsewhere/clip-vit-unknown")
    with pytest.raises(InputError, match="give --vision-tower DIR"):
        convert(reference, tmp_path / "hf")
    mappings = convert(reference, tmp_path / "hf", vision_tower=tmp_path / "clip")
    skipped = {m.source: m.note for m in mappings if m.target is None}
    assert skipped["logit_scale"] == "CLIP's text side: not part of the model"
    load_model(tmp_path / "hf")


def test_a_separate_vision_tower_replaces_the_one_inside(reference: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = {name: tensor + 1 for name, tensor in vision_tensors(torch.float16).items()}
    torch.save(other, tmp_path / "other" / "pytorch_model.bin")
    (reference / "vision_tower" / "config.json").rename(tmp_path / "other" / "config.json")
    add_vision_to_the_main_dict(reference)
    convert(reference, tmp_path / "hf", vision_tower=tmp_path / "other")
    bias = load_file(tmp_path / "hf" / "model.safetensors")["vision_tower.pre_layrnorm.bias"]
    assert torch.equal(bias, other["vision_model.pre_layrnorm.bias"])


def add_vision_to_the_main_dict(root: Path) -> None:
    rest = torch.load(root / REST, weights_only=True)
    tower = vision_tensors(torch.float16)
    torch.save(rest | {f"model.vision_tower.vision_tower.{k}": v for k, v in tower.items()}, root / REST)
    (root / "pytorch_model.bin.index.json").unlink()


def test_a_model_that_was_never_converted_becomes_a_reference_checkpoint(sample: Path, tmp_path: Path) -> None:
    convert(sample / "base", tmp_path / "reference", to="reference")
    config = read_json(tmp_path / "reference" / "config.json")
    assert (config["mm_vision_select_layer"], config["mm_projector_type"]) == ([2, 4, 6], "mlp2x_gelu")
    assert config["vocab_size"] == load_model(sample / "base")[0].config.image_token_id
    convert(tmp_path / "reference", tmp_path / "hf")
    before, after = (load_file(path / "model.safetensors") for path in (sample / "base", tmp_path / "hf"))
    for name in before:
        rows = len(before[name]) if "embed_tokens" not in name and "lm_head" not in name else config["vocab_size"]
        assert torch.equal(before[name][:rows], after[name][:rows])


def test_an_identity_that_was_trained_cannot_be_converted_back(llama_pieces, tmp_path: Path) -> None:
    convert(write_reference(tmp_path / "source", llama_pieces, mm_projector_type="linear"), tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    tensors["multi_modal_projector.linear_2.weight"][0, 0] = 2
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "hf" / "lineage.json").unlink()
    with pytest.raises(CheckpointError, match="was trained: this projector has two layers now"):
        convert(tmp_path / "hf", tmp_path / "back", to="reference")


# --- errors name the cause, and nothing is written -----------------------------------------------


def check_refused(source: Path, out: Path, message: str, **options: object) -> None:
    before = sorted(path.name for path in out.parent.iterdir())
    with pytest.raises(InputError, match=message) as caught:
        convert(source, out, **options)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in out.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model.norm.weight": None}, r"lacks 1 tensors, the first is language_model.model.norm.weight \[64\]"),
        ({"model.extra.weight": torch.zeros(2)}, "tensor model.extra.weight is unexpected"),
        ({"model.norm.weight": torch.zeros(31)}, r"model.norm.weight is \[31\], the configuration asks for \[64\]"),
        ({"model.norm.weight": torch.full((64,), float("nan"))}, "model.norm.weight holds NaN or infinite values"),
        ({"model.mm_projector.0.weight": torch.zeros(64, 32)}, r"0.weight is \[64, 32\], the configuration asks for"),
        ({"model.mm_projector.2.weight": None}, r"the first is multi_modal_projector.linear_2.weight \[64, 64\]"),
        ({"model.embed_tokens.weight": torch.zeros(2, 64)}, "tensor model.embed_tokens.weight is in"),
    ],
)
def test_missing_unexpected_and_misshapen_tensors_are_named(reference: Path, tmp_path: Path, tensors, message) -> None:
    changed = torch.load(reference / REST, weights_only=True) | tensors
    torch.save({name: tensor for name, tensor in changed.items() if tensor is not None}, reference / REST)
    check_refused(reference, tmp_path / "hf", message)


def test_nan_is_converted_on_request_and_noted(reference: Path, tmp_path: Path) -> None:
    tensors = torch.load(reference / REST, weights_only=True)
    torch.save(tensors | {"model.norm.weight": torch.full((64,), float("inf"))}, reference / REST)
    mappings = convert(reference, tmp_path / "hf", allow_nan=True)
    assert [m.source for m in mappings if "NaN or infinite" in m.note] == ["model.norm.weight"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_vision_tower": "EVA02_CLIP_L_336"}, "vision tower of type 'EVA02_CLIP_L_336' is not supported"),
        ({"model_type": "mpt"}, "language model of type 'mpt' is not supported: only Llama is"),
        ({"mm_projector_type": "mlp3x_gelu"}, "'mlp3x_gelu' has no counterpart"),
        ({"mm_projector_type": "resampler"}, "'resampler' has no counterpart"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio 'anyres' is not supported"),
        ({"mm_vision_select_feature": "cls"}, "use patch or cls_patch"),
        ({"mm_vision_select_layer": [8, 16, 24]}, r"\[8, 16, 24\]: the vision tower has 3 layers"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is not supported"),
        ({"hidden_size": "64"}, "hidden_size is '64', a positive integer is needed"),
        ({"hidden_size": 32}, r"is \[32000, 64\], the configuration asks for \[32000, 32\]"),
        ({"vocab_size": 31999}, "first free row is 31999 "),
    ],
)
def test_configurations_without_a_counterpart_are_refused(reference: Path, tmp_path: Path, changes, message) -> None:
    change(reference, **changes)
    check_refused(reference, tmp_path / "hf", message)


def test_an_image_token_id_that_is_used_already_is_refused(llama_pieces, tmp_path: Path) -> None:
    """A tokenizer with one token more than the checkpoint has rows, such as one with an added padding token."""
    source = write_reference(tmp_path / "source", llama_pieces)
    from tests.support.slow_llama import write_tokenizer

    write_tokenizer(source, [*llama_pieces, ("<pad>", 0.0)], legacy=False)
    check_refused(source, tmp_path / "hf", "the first free row is 32000 .id 32000 is used already")


@pytest.mark.parametrize("length", [0, 100, 2000, 20_000])
def test_a_truncated_shard_is_named(reference: Path, tmp_path: Path, length: int) -> None:
    os.truncate(reference / MAIN, length)
    check_refused(reference, tmp_path / "hf", r"00001-of-00002\.bin is (damaged|refused)")


def test_a_truncated_safetensors_shard_is_named(reference: Path, tmp_path: Path) -> None:
    safetensors_shards(reference)
    path = reference / "model-00001-of-00002.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    check_refused(reference, tmp_path / "hf", r"00001-of-00002\.safetensors is damaged")


def test_an_index_that_names_a_missing_or_outside_file_is_refused(reference: Path, tmp_path: Path) -> None:
    (reference / REST).unlink()
    check_refused(reference, tmp_path / "hf", f"names {REST}, which does not exist")
    (reference / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    check_refused(reference, tmp_path / "hf", "which is not a file in the same directory")


def test_unusable_sources_and_targets_are_refused(reference: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("something")
    check_refused(reference, tmp_path / "file", "file is a file: choose another directory")
    check_refused(reference, reference, "is the checkpoint itself")
    check_refused(reference, tmp_path / "hf", "--to 'gguf' is unknown", to="gguf")
    check_refused(tmp_path / "nowhere", tmp_path / "hf", "is not a checkpoint directory")
    convert(reference, tmp_path / "hf")
    check_refused(tmp_path / "hf", tmp_path / "again", "is in Hugging Face's layout already")


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
from vhm.cli import main
sys.argv = ["vhm", "convert", *sys.argv[1:]]
main()
"""


def test_a_full_disk_is_reported_in_one_line(reference: Path, tmp_path: Path) -> None:
    """A file size limit stands in for a full disk: the write itself fails."""
    command = [sys.executable, "-c", LIMITED, str(reference), str(tmp_path / "hf")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "cannot write" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["reference"]


def test_the_writer_refuses_unplanned_tensors(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, [TensorSpec("a", (2,), "float32", 8)])
    with pytest.raises(ValueError, match="was given where"):
        writer.write("a", torch.zeros(3))


def test_memory_stays_small(llama_pieces, tmp_path: Path) -> None:
    """Of 290 MB of weights, at most two blocks of 64 MB and one tensor of 51 MB are mapped at a time."""
    peaks = []
    for name, inner in (("small", 96), ("large", 400_000)):
        source = write_reference(tmp_path / name, llama_pieces, intermediate_size=inner)
        program = (
            "import sys; sys.path.insert(0, '.'); from pathlib import Path\n"
            "import vhm.model.weights as w; w._MAPPED_BYTES = 64 * 2**20\n"
            "from vhm.model.convert import convert; convert(Path(sys.argv[1]), Path(sys.argv[2]))\n"
            "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
        )
        command = [sys.executable, "-c", program, str(source), str(tmp_path / f"{name}-hf")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]) // 1024)
    weights = sum(path.stat().st_size for path in (tmp_path / "large").glob("*.bin")) // 2**20
    assert weights > 250
    assert peaks[1] - peaks[0] < 250
