"""The recipe: the one object that names everything a run needs.

A recipe is a YAML file; `vhm/recipe/presets/*.yaml` are presets, called by their name. Any value can be
overridden with `section.key=value`. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vhm.errors import InputError, RecipeError

Stage = Literal["align", "pretrain", "sft"]
ChatTemplate = Literal["v1", "chatml"]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Licence(_Section):
    """Terms of something that weights derive from; they follow the weights through every stage."""

    of: str = Field(description="what has these terms, such as a dataset or a base model")
    licence: str = Field(description="SPDX identifier in lower case, llama2, or other")
    research_only: bool = False


class BaseParts(_Section):
    """Directories, or a GGUF file for the LLM, that a base model is put together from."""

    vision_tower: str
    language_model: str
    vision_feature_layer: list[int] | int = Field([8, 16, 24], description="hidden states that are joined")
    template: ChatTemplate = "v1"


class BaseRecipe(_Section):
    """The model to start from; paths are relative to the data root."""

    model: str = "base"
    parts: BaseParts | None = Field(None, description="put the base together from these instead of reading `model`")
    projector: str | None = Field(None, description="LLaVA-layout projector to warm-start from; null: train `align`")
    source_layer: int | None = Field(None, description="feature layer that gets the source's weights; null: deepest")


class Expectations(_Section):
    """What an accepted list must be like; `vhm/data/validation/expectations/*.json` say which table each threshold is for."""

    min_side: Positive = Field(8, description="pixels of an image's longer side")
    max_side: Positive = 30_000
    max_aspect_ratio: float = Field(20, ge=1)
    max_turns: Positive = 200
    min_caption: float = Field(20, ge=0, description="characters, mean of a source")
    max_caption: float = Field(4000, gt=0)
    min_source_records: Positive = 1
    max_source_share: Share = 1.0
    max_duplicates: Share = Field(0.2, description="of a source's records")
    max_refusals: Share = Field(0.5, description="of a source's answers, in sft: an honest answer may be a refusal")


class DataRecipe(_Section):
    """Where records and images are, relative to the data root, and what validation accepts."""

    root: str = "data"
    sample: bool = Field(False, description="build the embedded sample when `root` is absent")
    images: str = "images"
    pretrain: str | list[str] = "pretrain/list_pretrain.json"
    sft: str | list[str] = "sft/list_sft.json"
    evaluation: str = "eval"
    golden: str = "golden.json"
    max_rejected: Share = 0.01
    splits: Positive = Field(1, description="parts that a list is checked in side by side")
    max_pixels: Positive = 100_000_000
    max_text: Positive = 20_000
    expect: Expectations = Expectations()
    bands: tuple[Positive, Positive, Positive] | None = Field(
        None, description="bands of a TIFF to show as red, green, blue, from 1; null: its first three"
    )
    scaled_decode: bool = Field(False, description="decode huge JPEG tiles at the smallest scale that training needs")
    pixel_cache_gb: float = Field(0, ge=0, description="keep resized pixels on disk, at most so many GB; 0: do not")

    def lists(self, kind: Literal["pretrain", "sft"]) -> list[str]:
        """The lists of a kind, one or several."""
        named = self.pretrain if kind == "pretrain" else self.sft
        return [named] if isinstance(named, str) else named


class Trainable(_Section):
    """Which parts learn. "upper_half" is the second half of the vision tower's blocks."""

    vision_tower: Literal["none", "upper_half", "all"] = "none"
    projector: bool = True
    language_model: bool = True


class StageRecipe(_Section):
    """One training stage; `global_batch` is in samples, accumulation follows from it."""

    template: Literal["plain"] | ChatTemplate
    image_aspect: Literal["crop", "pad"] = "pad"
    trainable: Trainable = Trainable()
    mixture_weights: list[Annotated[float, Field(ge=0)]] | None = Field(
        None, description="how many times an epoch has each sample of each list of `data`; null: once"
    )
    learning_rate: float = Field(2e-5, gt=0)
    warmup_ratio: Share = 0.03
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    global_batch: Positive
    micro_batch: Positive
    epochs: Positive = 1
    max_length: Positive = 2048
    precision: Literal["fp32", "bf16"] = "bf16"
    zero_stage: Literal[0, 1, 2, 3] = 3
    gradient_checkpointing: bool = True
    save_every: Positive = 2000
    log_every: Positive = 10
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"


class EvaluationRecipe(_Section):
    """What is generated and scored; `blind` tasks are also asked without the picture."""

    tasks: list[str] | Literal["all"] = "all"
    blind: list[str] = Field(default_factory=list)
    splits: Positive = 1
    batch_size: Positive = 16
    max_new_tokens: Positive = 512
    mode: Literal["strict", "rsevalkit"] = "strict"
    bootstrap: Positive = 2000


class GateRecipe(_Section):
    """What a model must reach: `thresholds` maps task.figure to its least value; a margin's 95 % interval
    over the majority class (`beat_majority`) or the blind model (`beat_blind`) must exclude zero."""

    thresholds: dict[str, float] = Field(default_factory=dict)
    beat_majority: list[str] = Field(default_factory=list)
    beat_blind: list[str] = Field(default_factory=list)
    max_regression: Share = 0.05


class ServingRecipe(_Section):
    """Limits of the endpoint: bytes of a request's image, tokens of an answer, requests waiting."""

    name: str = "vhm"
    max_image_bytes: Positive = 20 * 2**20
    max_pixels: Positive = 50_000_000
    max_new_tokens: Positive = 512
    max_batch: Positive = 8
    max_wait_ms: float = Field(5.0, ge=0)
    max_queue: Positive = 64


class StorageRecipe(_Section):
    """Where what a run makes goes in S3 (s3://BUCKET/PREFIX); credentials come from the environment alone."""

    checkpoints: str | None = Field(
        None, description="training checkpoints; a run without local ones goes on from there"
    )
    models: str | None = Field(None, description="promoted models")

    @model_validator(mode="after")
    def _addresses(self) -> StorageRecipe:
        from vhm.storage.s3 import parse_uri

        for place in (self.checkpoints, self.models):
            if place is not None:
                try:
                    parse_uri(place)
                except InputError as error:
                    raise ValueError(str(error)) from None
        return self


class ClusterRecipe(_Section):
    """Where the endpoint runs on Kubernetes, and what one replica of it gets."""

    namespace: str = "vhm"
    gpus: Annotated[int, Field(ge=0)] = 0
    cpu: str = "4"
    memory: str = "16Gi"


class Recipe(_Section):
    name: str
    seed: int = 0
    processes: Positive = Field(1, description="training processes on one machine")
    base: BaseRecipe = BaseRecipe()
    licences: list[Licence] = Field(default_factory=list, description="terms of the base model and of the data")
    data: DataRecipe = DataRecipe()
    stages: dict[Stage, StageRecipe]
    evaluation: EvaluationRecipe = EvaluationRecipe()
    gate: GateRecipe = GateRecipe()
    serving: ServingRecipe = ServingRecipe()
    storage: StorageRecipe = StorageRecipe()
    cluster: ClusterRecipe = ClusterRecipe()

    @model_validator(mode="after")
    def _batches_divide(self) -> Recipe:
        for name, stage in self.stages.items():
            if stage.global_batch % stage.micro_batch:
                raise ValueError(
                    f"stages.{name}.global_batch={stage.global_batch} is no multiple of micro_batch={stage.micro_batch}"
                )
        return self

    def stage(self, name: str) -> StageRecipe:
        """The named stage; RecipeError when the recipe has none of that name."""
        if name not in self.stages:
            raise RecipeError(f"recipe {self.name} has no stage {name!r}: it has {', '.join(self.stages)}")
        return self.stages[name]  # type: ignore[index]

    def text(self) -> str:
        """The resolved recipe as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def hash(self, *sections: str) -> str:
        """A content hash of the whole recipe, or of the named sections (`stages.sft`) and the seed."""
        values = self.model_dump(mode="json")
        if sections:
            chosen: dict[str, Any] = {"seed": self.seed}
            for section in sections:
                value: Any = values
                for key in section.split("."):
                    value = value.get(key) if isinstance(value, dict) else None
                chosen[section] = value
            values = chosen
        return hashlib.sha256(yaml.safe_dump(values, sort_keys=True).encode()).hexdigest()


def load_recipe(source: str | Path, overrides: list[str] | None = None) -> Recipe:
    """The recipe of a preset's name or a YAML file, with `section.key=value` overrides.

    Raises RecipeError that says which key or value is wrong.
    """
    text, where = _read(source)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not YAML: {' '.join(str(error).split())}") from None
    return parse_recipe(values, where, overrides)


def parse_recipe(values: Any, where: str = "recipe", overrides: list[str] | None = None) -> Recipe:
    """As `load_recipe`, from values that are already read."""
    if not isinstance(values, dict):
        raise RecipeError(f"{where} is not a mapping of sections")
    for override in overrides or []:
        _override(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error)}") from None


def presets() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("vhm.recipe").joinpath("presets")
    return sorted(Path(item.name).stem for item in folder.iterdir() if item.name.endswith(".yaml"))


def _read(source: str | Path) -> tuple[str, str]:
    if str(source) in presets():
        return resources.files("vhm.recipe").joinpath("presets", f"{source}.yaml").read_text(), f"recipe {source}"
    path = Path(source)
    try:
        return path.read_text(), str(path)
    except (OSError, UnicodeDecodeError) as error:
        close = difflib.get_close_matches(str(source), presets(), 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise RecipeError(
            f"recipe {source} {reason}: give a YAML file or one of {', '.join(presets())}{hint}"
        ) from None


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override!r}: write it as section.key=value")
    *parents, last = key.split(".")
    section = values
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise RecipeError(f"--set {override!r}: {parent} is a value, not a section")
    value = yaml.safe_load(text)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # YAML 1.1 takes 1e-5 for text
            value = float(value)
    section[last] = value


def _explain(error: ValidationError) -> str:
    """The first error in one line, with the nearest known key for an unknown one."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        known = _known_keys(place[:-1])
        close = difflib.get_close_matches(place[-1], known, 1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        return f"unknown key {'.'.join(place)!r}; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(place)}: {message}" if place else message


def _known_keys(place: list[str]) -> list[str]:
    model: Any = Recipe
    for part in place:
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        if model is Recipe and part == "stages":
            model = {"stages": StageRecipe}
            continue
        if isinstance(model, dict):
            model = StageRecipe
            continue
        model = field.annotation if field else Recipe
    return list(model.model_fields) if hasattr(model, "model_fields") else ["align", "pretrain", "sft"]
