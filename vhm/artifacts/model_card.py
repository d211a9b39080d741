"""The metadata of a model directory: its card, `README.md` as rendered by Hugging Face, and lineage.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from vhm.artifacts.lineage import NOT_STATED, Lineage, write_lineage
from vhm.io import JsonObject, read_json_object, read_jsonl, write_text
from vhm.recipe import Recipe

_USE = """```python
from transformers import AutoModelForImageTextToText, AutoProcessor
model, processor = AutoModelForImageTextToText.from_pretrained("."), AutoProcessor.from_pretrained(".")
turn = {"role": "user", "content": [{"type": "image", "url": "image.jpg"}, {"type": "text", "text": "What is this?"}]}
inputs = processor.apply_chat_template(
    [turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
print(processor.batch_decode(model.generate(**inputs)[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)[0])
```"""
_REFERENCE = "It has the layout of the published VHM code; `vhm convert` turns it into a Hugging Face directory."
_KINDS = {
    "model/assemble": "assembled from its parts, with an untrained projector",
    "model/convert": "converted",
    "model/warm-start": "warm-started with the projector of another model",
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
    sources: Iterable[str] = (),
) -> None:
    """Write the lineage and the card of a model directory.

    The card reads training.json (with train_log.jsonl) and scores.json if the directory has them. `names`, `hashes`
    and `sources` are passed to `write_lineage`.
    """
    training = read_json_object(directory / "training.json") if (directory / "training.json").is_file() else None
    lineage = write_lineage(directory, kind, inputs, recipe, training, names=names, hashes=hashes, sources=sources)
    is_hugging_face = (directory / "processor_config.json").is_file()
    sections = [_metadata(lineage), _title(lineage), _USE if is_hugging_face else _REFERENCE]
    if training is not None:
        write_text(directory / "training_curve.svg", curve_svg(directory / "train_log.jsonl"))
        sections.append(_training(training))
    if (directory / "scores.json").is_file():
        sections.append(_evaluation(read_json_object(directory / "scores.json")))
    sections += [_provenance(lineage), _terms(lineage)]
    write_text(directory / "README.md", "\n\n".join(sections) + "\n")


def _metadata(lineage: Lineage) -> str:
    """The YAML header that Hugging Face reads."""
    stated = {licence.licence for licence in lineage.licences}
    licences = sorted("unknown" if licence == NOT_STATED else licence for licence in stated)
    metadata: dict[str, object] = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    if lineage.research_only:
        metadata |= {"license": "other", "license_name": "research-only"}
    elif licences:
        metadata["license"] = licences[0] if len(licences) == 1 else "other"
        if len(licences) > 1:
            metadata["license_name"] = "-and-".join(licences)
    if lineage.base_models:
        metadata["base_model"] = list(lineage.base_models)
    metadata["tags"] = ["remote-sensing", "llava", "vhm", *(["research-only"] if lineage.research_only else [])]
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---"


def _title(lineage: Lineage) -> str:
    recipe = f" of recipe `{lineage.recipe.name}`" if lineage.recipe else ""
    sources = ", ".join(lineage.research_only)
    warning = f"\n\n**For research only**: it derives from {sources}." if sources else ""
    return (
        f"# VHM{recipe}, {_KINDS[lineage.kind]}\n\n"
        "A remote-sensing vision-language model (arXiv 2403.20213): CLIP, a projector and an LLM, as LLaVA." + warning
    )


def _training(training: JsonObject) -> str:
    skipped = sum(training["skipped"].values())
    epochs = training.get("epochs")  # models of earlier versions do not say
    passes = "" if epochs is None else f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}, "
    return (
        f"## Training\n\nStage `{training['stage']}`: {training['samples']} samples ({skipped} skipped, "
        f"{training['truncated']} truncated at the length limit), {passes}{training['steps']} steps, "
        f"loss {training['first_loss']:.3f} → {training['last_loss']:.3f}.\n\n![training curve](training_curve.svg)"
    )


def _evaluation(scores: JsonObject) -> str:
    rows = [
        f"| {name} | {task['n']} | {task['primary_metric']} | {100 * task[task['primary_metric']]:.1f} % |"
        for name, task in scores["tasks"].items()
        if "primary_metric" in task
    ]
    mean = f"Mean of the primary metrics: {100 * scores['summary']['mean']:.1f} %, scored `{scores['mode']}`."
    return "\n".join(
        ["## Evaluation", "", "| task | n | primary metric | value |", "|---|---|---|---|", *rows, "", mean]
    )


def _provenance(lineage: Lineage) -> str:
    rows = ["## Provenance", "", "| step | code | recipe | inputs |", "|---|---|---|---|"]
    for step in _ancestry(lineage):
        inputs = ", ".join(f"{name} {_short(entry.sha256)}" for name, entry in step.inputs.items())
        recipe = _short(step.recipe.sha256 if step.recipe else None)
        rows.append(f"| {step.kind} | `{step.code[:12]}` | {recipe} | {inputs} |")
    return "\n".join(
        [*rows, "", "Hashes are sha256, shortened; `lineage.json` has the complete ones, also of every file."]
    )


def _ancestry(lineage: Lineage) -> list[Lineage]:
    """A lineage and those of its inputs, recursively."""
    steps = [lineage]
    for entry in lineage.inputs.values():
        if entry.lineage is not None:
            steps += _ancestry(entry.lineage)
    return steps


def _short(digest: str | None) -> str:
    return f"`{digest[:12]}`" if digest else "–"


def _terms(lineage: Lineage) -> str:
    if not lineage.licences:
        return "## Terms\n\nNo licences are recorded. Those of the data and of the base weights apply."
    rows = [
        f"- {entry.of}: {entry.licence}{', research only' if entry.research_only else ''}" for entry in lineage.licences
    ]
    lines = ["## Terms", "", "Licences of what the weights derive from:", "", *rows]
    if any(entry.licence == NOT_STATED for entry in lineage.licences):
        lines += ["", "A licence that is not stated may forbid any use: ask the owner of the data."]
    return "\n".join(lines)


def curve_svg(log_file: Path, width: int = 640, height: int = 220) -> str:
    """The loss over steps as SVG: the values as a thin line, their running mean as a thick one."""
    losses = [entry["loss"] for entry in read_jsonl(log_file)]
    top = max(losses)
    smooth, mean = [], losses[0]
    for loss in losses:
        mean = 0.9 * mean + 0.1 * loss
        smooth.append(mean)

    def line(values: Sequence[float], style: str) -> str:
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
