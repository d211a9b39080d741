"""What every model directory carries beside its weights: `README.md`, as Hugging Face renders it, and lineage.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from vhm.artifacts.lineage import research_only, write_lineage
from vhm.io import read_json, read_jsonl, write_text
from vhm.recipe import Recipe

_USE = """```python
from transformers import AutoModelForImageTextToText, AutoProcessor
model, processor = AutoModelForImageTextToText.from_pretrained("."), AutoProcessor.from_pretrained(".")
turn = {"role": "user", "content": [{"type": "image", "url": "image.jpg"}, {"type": "text", "text": "What is this?"}]}
inputs = processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
print(processor.batch_decode(model.generate(**inputs)[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)[0])
```"""
_REFERENCE = "It is in the layout of the published VHM code; `vhm convert` makes it a Hugging Face directory."
_KINDS = {
    "model/assemble": "put together from its parts; its projector is not trained",
    "model/convert": "converted",
    "model/warm-start": "warm-started: its projector is another model's",
    "model/align": "with a trained projector",
    "model/pretrain": "pretrained",
    "model/sft": "fine-tuned",
    "model/promoted": "evaluated and promoted",
}


def finish_model(
    directory: Path,
    kind: str,
    inputs: Mapping[str, Path],
    recipe: Recipe | None = None,
    names: Iterable[str] = (),
    hashes: Mapping[Path, str] | None = None,
) -> None:
    """Write the lineage and the card of a model directory from what is in it.

    Read where they are there: training.json with train_log.jsonl, scores.json, warm_start.json.
    `names` and `hashes` are as `write_lineage` takes them.
    """
    training = read_json(directory / "training.json") if (directory / "training.json").is_file() else None
    lineage = write_lineage(directory, kind, inputs, recipe, training, names=names, hashes=hashes)
    plain = (directory / "processor_config.json").is_file()
    sections = [_head(lineage), _title(lineage, kind), _USE if plain else _REFERENCE]
    if training is not None:
        write_text(directory / "training_curve.svg", curve_svg(directory / "train_log.jsonl"))
        sections.append(_training(training))
    if (directory / "scores.json").is_file():
        sections.append(_evaluation(read_json(directory / "scores.json")))
    sections += [_origin(lineage), _terms(lineage)]
    write_text(directory / "README.md", "\n\n".join(sections) + "\n")


def _head(lineage: dict[str, Any]) -> str:
    licences = sorted({entry["licence"] for entry in lineage["licences"]})
    limited = research_only(lineage)
    metadata: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    if limited:
        metadata |= {"license": "other", "license_name": "research-only"}
    elif licences:
        metadata["license"] = licences[0] if len(licences) == 1 else "other"
        if len(licences) > 1:
            metadata["license_name"] = "-and-".join(licences)
    if lineage["base_models"]:
        metadata["base_model"] = lineage["base_models"]
    metadata["tags"] = ["remote-sensing", "llava", "vhm", *(["research-only"] if limited else [])]
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---"


def _title(lineage: dict[str, Any], kind: str) -> str:
    recipe = f" of recipe `{lineage['recipe']['name']}`" if lineage["recipe"] else ""
    limited = research_only(lineage)
    warning = f"\n\n**For research only**: it derives from {', '.join(limited)}." if limited else ""
    return (
        f"# VHM{recipe}, {_KINDS[kind]}\n\n"
        "A remote-sensing vision-language model (arXiv 2403.20213): CLIP, a projector and an LLM, as LLaVA." + warning
    )


def _training(training: dict[str, Any]) -> str:
    skipped = sum(training["skipped"].values())
    return (
        f"## Training\n\nStage `{training['stage']}`: {training['samples']} samples ({skipped} left out, "
        f"{training['truncated']} cut at the length limit), {training['steps']} steps, "
        f"loss {training['first_loss']:.3f} → {training['last_loss']:.3f}.\n\n![training curve](training_curve.svg)"
    )


def _evaluation(scores: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {task['n']} | {task['figure']} | {100 * task[task['figure']]:.1f} % |"
        for name, task in scores["tasks"].items()
        if "figure" in task
    ]
    mean = f"Mean of the main metrics: {100 * scores['summary']['mean']:.1f} %, scored `{scores['mode']}`."
    return "\n".join(["## Evaluation", "", "| task | n | figure | |", "|---|---|---|---|", *rows, "", mean])


def _origin(lineage: dict[str, Any]) -> str:
    rows = ["## Where it comes from", "", "| made by | code | recipe | from |", "|---|---|---|---|"]
    rows += [
        f"| {step['kind']} | `{step['code'][:12]}` | {_short((step['recipe'] or {}).get('sha256'))} | "
        + ", ".join(f"{name} {_short(entry['sha256'])}" for name, entry in step["inputs"].items())
        + " |"
        for step in _ancestry(lineage)
    ]
    return "\n".join([*rows, "", "Hashes are sha256; `lineage.json` has them whole, with those of every file here."])


def _ancestry(lineage: dict[str, Any]) -> list[dict[str, Any]]:
    steps = [lineage]
    for entry in lineage["inputs"].values():
        if "lineage" in entry:
            steps += _ancestry(entry["lineage"])
    return steps


def _short(digest: str | None) -> str:
    return f"`{digest[:12]}`" if digest else "–"


def _terms(lineage: dict[str, Any]) -> str:
    if not lineage["licences"]:
        return "## Terms\n\nNo terms are recorded: those of its data and of its base weights apply."
    rows = [
        f"- {entry['of']}: {entry['licence']}{', research only' if entry['research_only'] else ''}"
        for entry in lineage["licences"]
    ]
    return "\n".join(["## Terms", "", "Of what it derives from:", "", *rows])


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
