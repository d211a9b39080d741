"""Converts a checkpoint with the shapes of a 7B model (13.5 GB in half precision), compared with copying its files.

Both read from the page cache as far as the files fit, and both end with synchronised files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

_LLM = {
    "model_type": "vhm", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "hidden_act": "silu",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_vision_select_layer": [8, 16, 24],
    "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 3072, "image_aspect_ratio": "pad",
}  # fmt: skip
_TOWER = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
}  # fmt: skip
_CONVERT = """
import sys, time
from pathlib import Path
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor
from vhm.model.convert import convert
start = time.perf_counter()
convert(Path(sys.argv[1]), Path(sys.argv[2]))
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(time.perf_counter() - start, int(peak) / 2**20)
"""


def conversion(runs: int = 3) -> Iterator[str]:
    """Speed and peak memory of `vhm convert`, compared with `cp` in alternating runs."""
    with tempfile.TemporaryDirectory(prefix="vhm-bench-") as folder:
        source, out = Path(folder) / "reference", Path(folder) / "out"
        size = write_checkpoint(source)
        times: dict[str, list[float]] = {"cp": [], "convert": []}
        peak = 0.0
        for _ in range(runs):
            start = time.perf_counter()
            subprocess.run(f"cp -r {source} {out} && find {out} -type f -exec sync {{}} +", shell=True, check=True)
            times["cp"].append(time.perf_counter() - start)
            shutil.rmtree(out)
            command = [sys.executable, "-c", _CONVERT, str(source), str(out)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            times["convert"].append(float(printed[-2]))
            peak = max(peak, float(printed[-1]))
            shutil.rmtree(out)
        copied, converted = (size / 1e9 / sorted(t)[len(t) // 2] for t in (times["cp"], times["convert"]))
        yield (
            f"converting {size / 1e9:.1f} GB of 7B's shape     {converted:6.2f} GB/s, "
            f"{100 * converted / copied:.0f} % of cp's {copied:.2f} GB/s, peak memory {peak:.1f} GB"
        )


def write_checkpoint(folder: Path, layers: int = 32) -> int:
    """Write a reference checkpoint with the shapes of a 7B model and random weights; return its size in bytes."""
    (folder / "vision_tower").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_LLM | {"num_hidden_layers": layers}))
    (folder / "vision_tower" / "config.json").write_text(json.dumps(_TOWER))
    _write_tokenizer(folder)
    pool = (torch.randn(2**25, generator=torch.Generator().manual_seed(0)) / 50).half()

    def random(*shape: int) -> torch.Tensor:
        count = int(torch.tensor(shape).prod())
        return pool.repeat(-(-count // len(pool)))[:count].view(shape).clone()

    outer = {"model.embed_tokens.weight": random(32000, 4096), "lm_head.weight": random(32000, 4096)}
    outer |= {"model.norm.weight": random(4096), "model.mm_projector.0.weight": random(4096, 3072)}
    outer |= {"model.mm_projector.2.weight": random(4096, 4096)}
    outer |= {f"model.mm_projector.{n}.bias": random(4096) for n in (0, 2)}
    torch.save(outer, folder / "pytorch_model-00000.bin")
    for layer in range(layers):
        torch.save(_layer(layer, random), folder / f"pytorch_model-{layer + 1:05d}.bin")
    torch.save(_tower(random), folder / "vision_tower" / "pytorch_model.bin")
    os.sync()
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _layer(number: int, random: Callable[..., torch.Tensor]) -> dict[str, torch.Tensor]:
    stem = f"model.layers.{number}"
    layer = {f"{stem}.self_attn.{k}_proj.weight": random(4096, 4096) for k in "qkvo"}
    layer |= {f"{stem}.mlp.{k}_proj.weight": random(11008, 4096) for k in ("gate", "up")}
    layer |= {f"{stem}.{k}_layernorm.weight": random(4096) for k in ("input", "post_attention")}
    return layer | {f"{stem}.mlp.down_proj.weight": random(4096, 11008)}


def _tower(random: Callable[..., torch.Tensor]) -> dict[str, torch.Tensor]:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    with torch.device("meta"):
        shapes = CLIPVisionModel(CLIPVisionConfig.from_dict(_TOWER)).state_dict()
    named = {name.removeprefix("vision_model."): tensor.shape for name, tensor in shapes.items()}
    return {f"vision_model.{name}": random(*shape) for name, shape in named.items() if "position_ids" not in name}


def _write_tokenizer(folder: Path) -> None:
    from vhm.model.llama_tokenizer import SPECIALS, from_pieces

    pieces = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [f"▁{number}" for number in range(32000 - len(pieces))]
    from_pieces([(piece, -float(i)) for i, piece in enumerate(pieces)], legacy=False).save_pretrained(folder)
