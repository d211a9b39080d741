"""One rank of a training run, started by torchrun; `vhm train` starts torchrun."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

from vhm.errors import VhmError
from vhm.processes import die_with_parent
from vhm.recipe import load_recipe


def main() -> int:
    arguments = _parse_arguments()
    die_with_parent()
    # DeepSpeed unpickles its checkpoints without restriction by default; ours hold tensors and plain values.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    level = logging.INFO if os.environ["RANK"] == "0" else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    _silence_libraries()
    try:
        _run(arguments)
    except VhmError as error:
        print(f"vhm.train: error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        _leave_process_group()
    return 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m vhm.train")
    for name in ("stage", "recipe", "model", "images", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--manifest", required=True, nargs="+")
    parser.add_argument("--resume", choices=["auto", "never"], default="auto")
    return parser.parse_args()


def _silence_libraries() -> None:
    """Hide warnings and progress bars of libraries, so that the log holds our own lines."""
    warnings.filterwarnings("ignore")
    for name in ("DeepSpeed", "torch", "transformers", "numexpr"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _run(arguments: argparse.Namespace) -> None:
    from vhm.train.loop import run
    from vhm.train.prepare import Rank, TrainingRun

    training = TrainingRun(
        stage=arguments.stage,
        recipe=load_recipe(arguments.recipe),
        model=Path(arguments.model),
        manifests=tuple(map(Path, arguments.manifest)),
        images=arguments.images,
        out=Path(arguments.out),
        resume=arguments.resume == "auto",
    )
    rank, world_size, local_rank, local_world_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    run(training, Rank(rank, world_size, local_rank, local_world_size))


def _leave_process_group() -> None:
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
