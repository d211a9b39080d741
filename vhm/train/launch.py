"""Starts the ranks of a training stage on this machine and reports the first failure as one error."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from vhm.artifacts.lineage import LINEAGE
from vhm.data.images.stores import open_store
from vhm.data.index import manifest_file
from vhm.errors import InputError, TrainError
from vhm.io import sha256_tree, write_text
from vhm.processes import die_with_parent
from vhm.recipe import Recipe

log = logging.getLogger(__name__)


def train(
    stage: str,
    recipe: Recipe,
    model: Path,
    data: str | Path | Sequence[str | Path],
    images: str | Path,
    out: Path,
    processes: int | None = None,
    resume: bool = True,
) -> Path:
    """Run one training stage with `processes` ranks; `out` becomes a Hugging Face directory.

    `data` is a manifest, or several; `data` and `images` may be in S3, where images are read on demand.
    A stopped stage resumes from its newest checkpoint. Raises TrainError with the reason of the rank that failed
    first, InputError when an input is missing.
    """
    recipe.stage(stage)
    if not (model / "config.json").exists():
        raise InputError(f"model {model / 'config.json'} does not exist")
    manifests = [manifest_file(one) for one in ([data] if isinstance(data, (str, Path)) else data)]
    open_store(images)
    _prepare_out(out, model, resume)
    write_text(out / "recipe.yaml", recipe.text())
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=1"),
        f"--nproc-per-node={processes or recipe.processes}",
        *("--master-addr=127.0.0.1", f"--master-port={_free_port()}", "-m", "vhm.train"),
        *("--stage", stage, "--recipe", str(out / "recipe.yaml"), "--model", str(model)),
        *("--manifest", *map(str, manifests)),
        *("--images", str(images), "--out", str(out), "--resume", "auto" if resume else "never"),
    ]
    _run(command, stage)
    _finish(stage, recipe, model, manifests, out)
    return out


def _prepare_out(out: Path, model: Path, resume: bool) -> None:
    """Create `out`, or check that it belongs to an earlier training and mark it as incomplete."""
    if out.resolve() == model.resolve():
        raise InputError(f"--out {out} is the model to start from: choose another directory")
    if out.is_dir() and any(out.iterdir()) and not (out / "recipe.yaml").exists():
        raise InputError(f"--out {out} is not empty and holds no recipe.yaml of a training: choose another directory")
    out.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", LINEAGE):  # a directory without them is not a complete model
        (out / name).unlink(missing_ok=True)
    if not resume:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)


def _finish(stage: str, recipe: Recipe, model: Path, manifests: list[Path], out: Path) -> None:
    """Write the lineage and the model card of the trained model."""
    from vhm.artifacts.model_card import finish_model

    names = ["manifest"] if len(manifests) == 1 else [f"manifest {i}" for i in range(len(manifests))]
    inputs = {"model": model, **dict(zip(names, manifests, strict=True))}
    finish_model(out, f"model/{stage}", inputs, recipe, sources=[name for one in manifests for name in _sources(one)])
    log.info("%s: model in %s, weights %s", stage, out, weights_hash(out)[:12])


def _sources(manifest: Path) -> list[str]:
    """The sources of a manifest's records, "" for records without one."""
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(manifest)
    if "source" not in file.schema_arrow.names:
        return []
    return sorted(name or "" for name in file.read(["source"])["source"].unique().to_pylist())


def weights_hash(model: Path) -> str:
    """One hash over the model's weight files."""
    names = frozenset(p.name for p in model.iterdir() if p.suffix != ".safetensors")
    return sha256_tree(model, skip=names)


def _run(command: list[str], stage: str) -> None:
    """Run torchrun until all ranks have ended, logging the lines of the stage. Raises TrainError when a rank failed."""
    last_lines: deque[str] = deque(maxlen=200)
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=_environment(),
        preexec_fn=die_with_parent,
    ) as ranks:
        # torchrun passes SIGTERM on: every rank finishes its step, saves and ends.
        before = signal.signal(signal.SIGTERM, lambda *_: ranks.terminate())
        try:
            assert ranks.stderr is not None
            for line in ranks.stderr:
                last_lines.append(line.rstrip())
                log.log(logging.INFO if line.startswith(stage) else logging.DEBUG, "%s", line.rstrip())
        except BaseException:
            ranks.terminate()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
    if ranks.returncode:
        raise TrainError(f"{stage} failed: {_reason(last_lines)}")


def _environment() -> dict[str, str]:
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    environment.setdefault("OMP_NUM_THREADS", "1")
    if "CUDA_VISIBLE_DEVICES" not in environment and not _has_gpu():
        environment.setdefault("DS_ACCELERATOR", "cpu")
    # Tools that DeepSpeed may call on a GPU, such as ninja, are installed next to this interpreter.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '')}"
    return environment


def _has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _reason(lines: Sequence[str]) -> str:
    """The error message of the first failing rank, else its exception, else how it ended."""
    for line in lines:
        if line.startswith("vhm.train: error: "):
            return line.removeprefix("vhm.train: error: ")
    for line in lines:
        if "Error: " in line:
            return line.split("]: ")[-1]
    return "a rank was killed" if any("Signal" in line for line in lines) else "no reason given"
