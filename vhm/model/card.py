"""`README.md` of a model directory, as Hugging Face renders it."""

from __future__ import annotations

from pathlib import Path

from vhm.io import read_json, read_jsonl, write_text
from vhm.recipe import Recipe

_USE = """```python
from transformers import AutoModelForImageTextToText, AutoProcessor
model, processor = AutoModelForImageTextToText.from_pretrained("."), AutoProcessor.from_pretrained(".")
turn = {"role": "user", "content": [{"type": "image", "url": "image.jpg"}, {"type": "text", "text": "What is this?"}]}
inputs = processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
print(processor.batch_decode(model.generate(**inputs)[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)[0])
```"""


def write_card(directory: Path, stage: str, recipe: Recipe) -> None:
    """Write the card and the training curve from what training left in `directory`."""
    training = read_json(directory / "training.json")
    lineage = read_json(directory / "lineage.json")
    write_text(directory / "training_curve.svg", curve_svg(directory / "train_log.jsonl"))
    research = "llama2" if recipe.name == "vhm-7b" else "other"
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: image-text-to-text",
        f"license: {research}",
        "tags: [remote-sensing, llava, vhm]",
        "---",
        "",
        f"# VHM `{recipe.name}`, after `{stage}`",
        "",
        "A remote-sensing vision-language model (arXiv 2403.20213): a `LlavaForConditionalGeneration`.",
        "",
        _USE,
        "",
        "## Training",
        "",
        f"Stage `{stage}` of recipe `{recipe.name}`: {training['samples']} samples, {training['steps']} steps, "
        f"loss {training['first_loss']:.3f} → {training['last_loss']:.3f}.",
        "",
        "![training curve](training_curve.svg)",
        "",
        "## Where it comes from",
        "",
        f"- code `{lineage['code']}`",
        f"- recipe `{lineage['recipe']['sha256'][:16]}`",
        *(f"- {name} `{entry['sha256'][:16]}`" for name, entry in lineage["inputs"].items()),
        "",
        "Licences of its data and base weights apply; weights that come from VersaD or Vicuna are for research only.",
        "",
    ]
    write_text(directory / "README.md", "\n".join(lines))


def curve_svg(log_file: Path, width: int = 640, height: int = 220) -> str:
    """The loss over steps as an SVG: every step thin, a running mean thick."""
    losses = [entry["loss"] for entry in read_jsonl(log_file)]
    top = max(losses)
    smooth, mean = [], losses[0]
    for loss in losses:
        mean = 0.9 * mean + 0.1 * loss
        smooth.append(mean)

    def line(values: list[float], style: str) -> str:
        points = " ".join(
            f"{40 + (width - 50) * i / max(1, len(values) - 1):.1f},{10 + (height - 40) * (1 - v / top):.1f}"
            for i, v in enumerate(values)
        )
        return f'<polyline fill="none" {style} points="{points}"/>'

    thin, thick = 'stroke="#9bc" stroke-width="1"', 'stroke="#146" stroke-width="2"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{height}" fill="#fff"/>'
        f'<path d="M40 10V{height - 30}H{width - 10}" fill="none" stroke="#888"/>'
        f"{line(losses, thin)}{line(smooth, thick)}"
        f'<text x="4" y="18">{top:.2f}</text><text x="4" y="{height - 32}">0</text>'
        f'<text x="{width // 2}" y="{height - 10}">{len(losses)} steps, loss</text></svg>\n'
    )
