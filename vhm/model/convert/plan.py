"""Which tensor is written where, under which name and shape; checked against the model before anything is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vhm.errors import CheckpointError
from vhm.model.convert.keys import hf_name, hf_saved_name, is_embedding, is_vision, reference_name, skip_reason
from vhm.model.weights import StoredTensor, TensorSpec, list_tensors, read_tensors, weight_files

if TYPE_CHECKING:
    from transformers import LlavaConfig

_LM_HEAD = "language_model.lm_head.weight"
_PROJECTOR_1 = "multi_modal_projector.linear_1.weight"
_PROJECTOR_2 = ("multi_modal_projector.linear_2.weight", "multi_modal_projector.linear_2.bias")
_IDENTITY_NOTE = "identity: the projector has one layer"


@dataclass(frozen=True)
class TensorMapping:
    """What became of one tensor: its name in the source and in the result, and why they differ.

    `target` is None for a tensor that was skipped, `source` is None for a new one.
    """

    source: str | None
    target: str | None
    shape: list[int]
    dtype: str
    note: str = ""


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor to write. `source` is None for an identity, which is not read from the checkpoint."""

    source: StoredTensor | None
    target: TensorSpec
    note: str = ""


@dataclass
class Plan:
    """The tensors to write, in the order in which they are read, and those that are skipped."""

    tensors: list[PlannedTensor] = field(default_factory=list)
    skipped: list[TensorMapping] = field(default_factory=list)

    def skip(self, stored: StoredTensor, reason: str) -> None:
        self.skipped.append(TensorMapping(stored.name, None, list(stored.shape), stored.dtype, reason))

    def write(self, stored: StoredTensor, name: str, shape: tuple[int, ...], note: str = "") -> None:
        self.tensors.append(PlannedTensor(stored, _spec(name, shape, stored), note))


# --- reference → Hugging Face --------------------------------------------------------------------


def plan_to_hf(
    source: Path, tower: Path | None, replace_tower: bool, config: LlavaConfig, rows: int, layers: int
) -> Plan:
    """Plan the conversion of the reference checkpoint `source` into a model with this configuration.

    The vision tower is read from `source` if it holds one, else from the directory `tower`; with `replace_tower`
    always from `tower`. The checkpoint has `rows` embeddings and a projector of `layers` linear layers.
    Raises CheckpointError that names a missing, unexpected or misshapen tensor.
    """
    plan = Plan()
    expected = _saved_shapes(config)
    tensors, unused = _source_tensors(source, tower, replace_tower)
    for stored in unused:
        plan.skip(stored, "the separate vision tower is used")
    by_target: dict[str, StoredTensor] = {}
    for stored in tensors:
        name = hf_name(stored.name)
        reason = skip_reason(stored.name)
        if not reason and name == _LM_HEAD and config.tie_word_embeddings:
            reason = "tied to the embeddings"
        if reason:
            plan.skip(stored, reason)
            continue
        shape, note = stored.shape, ""
        if is_embedding(name) and shape and shape[0] == rows:
            shape, note = (config.text_config.vocab_size, *shape[1:]), f"padded from {rows} rows with their mean"
        _check_tensor(stored, name, shape, expected, rows)
        if name in by_target:
            raise CheckpointError(f"{stored.file}: tensor {stored.name}: another tensor became {name} already")
        by_target[name] = stored
        plan.write(stored, name, shape, note)
    if layers == 1 and _PROJECTOR_1 in by_target:
        _plan_identity(plan, by_target, expected)
    missing = sorted(set(expected) - {planned.target.name for planned in plan.tensors})
    if missing:
        raise CheckpointError(
            f"{source} lacks {len(missing)} tensors, the first is {missing[0]} {list(expected[missing[0]])}"
        )
    return plan


def _source_tensors(
    source: Path, tower: Path | None, replace_tower: bool
) -> tuple[list[StoredTensor], list[StoredTensor]]:
    """Return the tensors of the checkpoint and its vision tower, and those of a tower that is not used."""
    tensors = list(list_tensors(weight_files(source)).values())
    vision = [stored for stored in tensors if is_vision(stored.name)]
    if vision and not replace_tower:
        return tensors, []
    if tower is None:
        raise CheckpointError(f"{source} holds no vision weights and no vision_tower/: give --vision-tower DIR")
    others = [stored for stored in tensors if not is_vision(stored.name)]
    return [*others, *list_tensors(weight_files(tower)).values()], vision


def _check_tensor(
    stored: StoredTensor, name: str, shape: tuple[int, ...], expected: dict[str, tuple[int, ...]], rows: int
) -> None:
    if name not in expected:
        raise CheckpointError(f"{stored.file}: tensor {stored.name} is unexpected")
    if shape != expected[name]:
        needed = (rows, *expected[name][1:]) if is_embedding(name) else expected[name]
        raise CheckpointError(
            f"{stored.file}: tensor {stored.name} is {list(stored.shape)}, the configuration asks for {list(needed)}"
        )


def _plan_identity(plan: Plan, by_target: dict[str, StoredTensor], expected: dict[str, tuple[int, ...]]) -> None:
    """Add the second projector layer, an identity, behind a projector of one layer."""
    for name in _PROJECTOR_2:
        if name in by_target:
            raise CheckpointError(f"tensor {name}: a projector of one layer has no second one")
        spec = _spec(name, expected[name], by_target[_PROJECTOR_1])
        plan.tensors.append(PlannedTensor(None, spec, _IDENTITY_NOTE))


def _saved_shapes(config: LlavaConfig) -> dict[str, tuple[int, ...]]:
    """Return the names, as Hugging Face saves them, and the shapes of all tensors of a model."""
    import torch
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    shapes = {
        hf_saved_name(name): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not name.endswith("position_ids")
    }
    if config.tie_word_embeddings:
        shapes.pop(_LM_HEAD, None)
    return shapes


# --- Hugging Face → reference --------------------------------------------------------------------


def plan_to_reference(source: Path, names: dict[str, str], rows: int, layers: int) -> tuple[Plan, Plan]:
    """Plan the conversion of the model `source` into the LLM with the projector, and the vision tower.

    `names` maps a tensor to the name that it had in the reference checkpoint, if that is known. The result has
    `rows` embeddings and a projector of `layers` linear layers.
    Raises CheckpointError for a tensor without a counterpart.
    """
    main, vision = Plan(), Plan()
    for stored in list_tensors(weight_files(source)).values():
        name = names.get(stored.name) or (None if skip_reason(stored.name) else reference_name(stored.name))
        if name is None:
            raise CheckpointError(f"{stored.file}: tensor {stored.name} has no counterpart in the reference layout")
        if layers == 1 and "multi_modal_projector.linear_2" in stored.name:
            _require_identity(stored)
            main.skip(stored, _IDENTITY_NOTE)
            continue
        shape, note = stored.shape, ""
        if is_embedding(stored.name):
            shape, note = (rows, *shape[1:]), f"cut to {rows} rows"
        part = main if name.startswith(("model.", "lm_head")) else vision
        part.write(stored, name, shape, note)
    return main, vision


def _require_identity(stored: StoredTensor) -> None:
    import torch

    [(_, tensor)] = read_tensors([stored])
    identity = torch.eye(len(tensor)) if tensor.ndim == 2 else torch.zeros(len(tensor))
    if not torch.equal(tensor.float(), identity):
        raise CheckpointError(
            f"{stored.file}: {stored.name} was trained: this projector has two layers now and cannot go back to one"
        )


def _spec(name: str, shape: tuple[int, ...], like: StoredTensor) -> TensorSpec:
    item_size = like.bytes // max(1, math.prod(like.shape))
    return TensorSpec(name, shape, like.dtype, item_size * math.prod(shape))
