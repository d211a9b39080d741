"""Exact resume: DeepSpeed's checkpoints, made complete by a manifest that is written last.

    DIR/step-00000050/            appears by a rename, when everything in it is on disk
        manifest.json             step, resume key; name, size and sha256 of every file
        state/…                   each rank's parameters and optimizer state
        train_log.jsonl           the training log so far

A folder without a manifest, or with a file that differs from its manifest, is never loaded.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from vhm.errors import CheckpointError, VhmError
from vhm.io import JsonObject, read_json_object, sha256_file, write_json
from vhm.storage.s3 import parse_uri
from vhm.storage.versions import fetch, open_published, publish
from vhm.train.log import LOG_NAME, reset_log

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

MANIFEST_NAME = "manifest.json"
_REMOTE_VERSIONS = 2  # checkpoints that are kept in S3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumeKey:
    """What must be equal for a resume to be exact."""

    recipe_hash: str
    model_hash: str
    data_hash: str
    world_size: int

    @property
    def digest(self) -> str:
        return hashlib.sha256(orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and sha256 of one file of a checkpoint."""

    size: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        return cls(path.stat().st_size, sha256_file(path))


@dataclass(frozen=True)
class Manifest:
    """`manifest.json` of a checkpoint: the run it belongs to, its step and its files by relative path."""

    key: ResumeKey
    step: int
    files: dict[str, FileEntry]

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Raises InputError when the file cannot be read, CheckpointError when it is not a manifest."""
        content = read_json_object(path)
        try:
            key = ResumeKey(**{field.name: content[field.name] for field in fields(ResumeKey)})
            files = {name: FileEntry(entry["size"], entry["sha256"]) for name, entry in content["files"].items()}
            return cls(key, int(content["step"]), files)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path} is not the manifest of a checkpoint ({error}): remove {path.parent}"
            ) from error

    def to_json(self) -> JsonObject:
        files = {name: asdict(entry) for name, entry in self.files.items()}
        return asdict(self.key) | {"step": self.step, "files": files}


class RemoteCheckpoints:
    """The run's checkpoints in S3, uploaded one at a time while training continues.

    Runs with the same resume key share a location: a checkpoint that one pod uploaded, another resumes from.
    """

    def __init__(self, location: str | None, stage: str, key: ResumeKey) -> None:
        self._stage = stage
        self._uri = parse_uri(location) / f"{stage}-{key.digest}" if location else None
        self._uploader = ThreadPoolExecutor(1)
        self._upload: Future[str] | None = None

    def upload(self, folder: Path) -> None:
        """Start to upload a checkpoint; call `wait` before removing it."""
        if self._uri is not None:
            self._upload = self._uploader.submit(publish, folder, self._uri, _REMOTE_VERSIONS)

    def wait(self) -> None:
        """Wait for the upload in progress. If it fails, training continues and a warning is logged."""
        upload, self._upload = self._upload, None
        if upload is not None:
            try:
                log.info("%s: uploaded checkpoint %s to %s", self._stage, upload.result(), self._uri)
            except VhmError as error:
                log.warning("%s: the checkpoint was not uploaded, training continues: %s", self._stage, error)

    def download(self, root: Path) -> None:
        """Download the newest uploaded checkpoint into `root`, unless `root` already has a checkpoint."""
        if self._uri is None or any(root.glob("step-*")):
            return
        published = open_published(self._uri)
        if published is not None:
            step = orjson.loads(published.read(MANIFEST_NAME))["step"]
            log.info("%s: downloading the checkpoint of step %d from %s", self._stage, step, self._uri)
            fetch(published.uri, root / f"step-{step:08d}")


class Checkpoints:
    """The checkpoints of a run below `root`. All ranks save and resume; the first writes the files that ranks share."""

    def __init__(self, root: Path, log_file: Path, key: ResumeKey, remote: RemoteCheckpoints, is_first: bool) -> None:
        self._root, self._log_file, self._key = root, log_file, key
        self._remote, self._is_first = remote, is_first

    def save(self, engine: DeepSpeedEngine, step: int) -> None:
        """Save the engine's state after `step` steps and the log so far, then remove older checkpoints."""
        import torch.distributed as distributed

        final = self._root / f"step-{step:08d}"
        temporary = self._root / f".{final.name}.partial"
        if self._is_first:
            self._remote.wait()
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        distributed.barrier()
        engine.save_checkpoint(str(temporary), tag="state", exclude_frozen_parameters=True)
        distributed.barrier()
        if self._is_first:
            self._complete(temporary, final, step)
            self._remote.upload(final)
        distributed.barrier()

    def _complete(self, temporary: Path, final: Path, step: int) -> None:
        """Add the log and the manifest, rename the folder, and remove older checkpoints."""
        shutil.copyfile(self._log_file, temporary / LOG_NAME)
        paths = sorted(path for path in temporary.rglob("*") if path.is_file())
        files = {path.relative_to(temporary).as_posix(): FileEntry.of(path) for path in paths}
        write_json(temporary / MANIFEST_NAME, Manifest(self._key, step, files).to_json())
        shutil.rmtree(final, ignore_errors=True)
        os.rename(temporary, final)
        for old in sorted(self._root.glob("step-*")):
            if old != final:
                shutil.rmtree(old)

    def resume(self, engine: DeepSpeedEngine) -> int:
        """Load the newest checkpoint, local or remote, and reset the log to its copy.

        Returns the step that training continues from, 0 when there is no checkpoint. Raises CheckpointError as
        `newest` does.
        """
        import torch.distributed as distributed

        if self._is_first:
            self._remote.download(self._root)
        distributed.barrier()
        checkpoint = newest(self._root, self._key)
        if checkpoint is None:
            return self.start_again()
        folder, step = checkpoint
        load(engine, folder)
        if self._is_first:
            reset_log(self._log_file, folder / LOG_NAME)
        return step

    def start_again(self) -> int:
        """Empty the log; returns step 0."""
        if self._is_first:
            reset_log(self._log_file, None)
        return 0


def newest(root: Path, key: ResumeKey) -> tuple[Path, int] | None:
    """The newest complete checkpoint below `root` that was made for `key`, and its step.

    Raises CheckpointError when a checkpoint is damaged or belongs to another run: starting from the beginning
    would silently lose it.
    """
    for folder in sorted(root.glob("step-*"), reverse=True):
        manifest = Manifest.read(folder / MANIFEST_NAME)
        _require_key(folder, manifest.key, key)
        verify(folder, manifest)
        return folder, manifest.step
    return None


def _require_key(folder: Path, saved: ResumeKey, key: ResumeKey) -> None:
    for field in fields(ResumeKey):
        before, now = getattr(saved, field.name), getattr(key, field.name)
        if before != now:
            raise CheckpointError(
                f"{folder} was made with another {field.name.replace('_', ' ')} ({before}, now {now}): "
                "use --resume never to start again, or another --out"
            )


def verify(folder: Path, manifest: Manifest) -> None:
    """Raise CheckpointError that names the first file that is missing or differs from the manifest."""
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: remove {folder} to resume from an older state")
        if path.stat().st_size != entry.size or sha256_file(path) != entry.sha256:
            raise CheckpointError(f"{path} is damaged: remove {folder} to resume from an older state")


def load(engine: DeepSpeedEngine, folder: Path) -> None:
    """Load the verified checkpoint `folder` into the engine. All ranks call it.

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
