"""One rank of a training run: started by torchrun, never by hand. `vhm train` starts it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from vhm.errors import VhmError
from vhm.processes import die_with_parent
from vhm.recipe import load_recipe


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m vhm.train")
    for name in ("stage", "recipe", "model", "images", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--manifest", required=True, nargs="+")
    parser.add_argument("--resume", choices=["auto", "never"], default="auto")
    arguments = parser.parse_args()
    die_with_parent()
    # DeepSpeed would unpickle its checkpoints whole; ours hold tensors and plain values.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(message)s", stream=sys.stderr)
    _quiet()
    from vhm.train.loop import TrainingRun, run

    try:
        job = TrainingRun(
            arguments.stage,
            load_recipe(arguments.recipe),
            Path(arguments.model),
            tuple(map(Path, arguments.manifest)),
            arguments.images,
            Path(arguments.out),
            arguments.resume == "auto",
        )
        run(job, rank, world_size)
    except VhmError as error:
        print(f"vhm.train: error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        _leave()
    return 0


def _quiet() -> None:
    """Only our own lines: libraries may warn."""
    import warnings

    warnings.filterwarnings("ignore")
    for name in ("DeepSpeed", "torch", "transformers", "numexpr"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _leave() -> None:
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
