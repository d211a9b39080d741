"""Exact resume: what DeepSpeed saves, made whole by a manifest that is written last.

    DIR/step-00000050/            appears by a rename, when everything in it is on disk
        manifest.json             step, world size, recipe hash; name, size and sha256 of every file
        state/…                   each rank's parameters and optimizer state
        train_log.jsonl           the training log so far

A folder without a manifest, or with a file that is not as its manifest says, is never loaded.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson

from vhm.errors import CheckpointError, VhmError
from vhm.io import read_json, sha256_file, write_json
from vhm.storage.s3 import parse_uri
from vhm.storage.versions import fetch, open_published, publish

log = logging.getLogger(__name__)


class RemoteCheckpoints:
    """The run's checkpoints in S3, sent one at a time while training goes on.

    Runs of one key share a place: what one pod saved, the next goes on from.
    """

    def __init__(self, place: str | None, stage: str, key: dict[str, Any]) -> None:
        digest = hashlib.sha256(orjson.dumps(key, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
        self._stage = stage
        self._uri = parse_uri(place) / f"{stage}-{digest}" if place else None
        self._sender = ThreadPoolExecutor(1)
        self._sending: Future[str] | None = None

    def send(self, folder: Path) -> None:
        """Begin to publish a checkpoint; `wait` before it goes."""
        if self._uri is not None:
            self._sending = self._sender.submit(publish, folder, self._uri, 2)

    def wait(self) -> None:
        """Until what was begun is there. A failure is told, and no reason to stop: the local checkpoint is whole."""
        sending, self._sending = self._sending, None
        if sending is not None:
            try:
                log.info("%s: checkpoint %s is at %s", self._stage, sending.result(), self._uri)
            except VhmError as error:
                log.warning("%s: the checkpoint was not stored: %s", self._stage, error)

    def fetch(self, root: Path, log_file: Path) -> None:
        """Bring the newest stored checkpoint to `root`, and its training log, unless some are there."""
        if self._uri is None or any(root.glob("step-*")):
            return
        published = open_published(self._uri)
        if published is not None:
            step = orjson.loads(published.read("manifest.json"))["step"]
            log.info("%s: bringing the checkpoint of step %d from %s", self._stage, step, self._uri)
            fetch(published.uri, root / f"step-{step:08d}")
            shutil.copyfile(root / f"step-{step:08d}" / log_file.name, log_file)


def save(
    engine: Any, root: Path, step: int, key: dict[str, Any], rank: int, stored: RemoteCheckpoints, log_file: Path
) -> None:
    """Save the engine's state after `step` steps, and the log so far; older checkpoints go once this one is whole.

    All ranks call.
    """
    import torch.distributed as distributed

    final = root / f"step-{step:08d}"
    beside = root / f".{final.name}.partial"
    if rank == 0:
        stored.wait()
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    distributed.barrier()
    engine.save_checkpoint(str(beside), tag="state", exclude_frozen_parameters=True)
    distributed.barrier()
    if rank == 0:
        shutil.copyfile(log_file, beside / log_file.name)
        files = sorted(p for p in beside.rglob("*") if p.is_file())
        listed = {p.relative_to(beside).as_posix(): {"size": p.stat().st_size, "sha256": sha256_file(p)} for p in files}
        write_json(beside / "manifest.json", key | {"step": step, "files": listed})
        shutil.rmtree(final, ignore_errors=True)
        os.rename(beside, final)
        for old in sorted(root.glob("step-*")):
            if old != final:
                shutil.rmtree(old)
        stored.send(final)
    distributed.barrier()


def newest(root: Path, key: dict[str, Any]) -> tuple[Path, int] | None:
    """The newest whole checkpoint below `root` that was made for `key`, and its step.

    `key` is what must be equal for a resume to be exact. Raises CheckpointError when a checkpoint is
    damaged or belongs to another run: going on from the start would silently lose it.
    """
    for folder in sorted(root.glob("step-*"), reverse=True):
        manifest = read_json(folder / "manifest.json")
        for name, value in key.items():
            if manifest.get(name) != value:
                raise CheckpointError(
                    f"{folder} was made with another {name.replace('_', ' ')} ({manifest.get(name)}, now {value}): "
                    "use --resume never to start again, or another --out"
                )
        verify(folder, manifest)
        return folder, int(manifest["step"])
    return None


def verify(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise CheckpointError that names the first file that is missing or not as listed."""
    for name, listed in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: remove {folder} to resume from an older state")
        if path.stat().st_size != listed["size"] or sha256_file(path) != listed["sha256"]:
            raise CheckpointError(f"{path} is damaged: remove {folder} to resume from an older state")


def load(engine: Any, folder: Path) -> None:
    """Put the verified checkpoint `folder` into the engine. All ranks call.

    PyTorch unpickles nothing but tensors, plain values and the classes that DeepSpeed keeps in its state.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address
    from torch.serialization import safe_globals

    with safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]):
        path, _ = engine.load_checkpoint(str(folder), tag="state", load_module_strict=False)
    if path is None:
        raise CheckpointError(f"DeepSpeed could not load {folder}")
