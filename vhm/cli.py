"""`vhm …`: the table of commands, and how a command ends.

Exit status: 0 done; 1 a check or the gate refused; 2 the call was wrong. Errors are one line on stderr; `--debug` adds
the traceback. `--json` prints one object on stdout and nothing else there.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

import typer

from vhm.commands import data, evaluate, model, pipeline, serve
from vhm.errors import VhmError
from vhm.io import cache_directory
from vhm.processes import cache_bytecode

app = typer.Typer(
    name="vhm",
    help="Train, evaluate and serve a versatile and honest vision-language model for remote sensing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("sample")(data.sample)
app.command("validate")(data.validate)
app.command("convert")(model.convert)
app.command("assemble")(model.assemble)
app.command("warm-start")(model.warm_start)
app.command("train")(model.train)
app.command("evaluate")(evaluate.evaluate)
app.command("score")(evaluate.score)
app.command("gate")(evaluate.gate)
app.command("serve")(serve.serve)
app.command("ask")(serve.ask)
app.command("deploy")(serve.deploy)
app.add_typer(data.data_app, name="data")
app.add_typer(pipeline.pipeline_app, name="pipeline")


def main() -> None:
    """Run the command; every error becomes one line on stderr and an exit status."""
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    _set_up(debug)
    try:
        status = app(args=arguments, prog_name="vhm", standalone_mode=False)
        if status == 130:  # typer's way to report Ctrl-C
            raise KeyboardInterrupt
    except VhmError as error:
        status = _fail(str(error), error.exit_code, debug)
    except (typer.Abort, KeyboardInterrupt):
        status = _fail("interrupted", 130, debug)
    except OSError as error:
        status = _fail(f"{error.strerror or error}: {error.filename or 'input or output'}", 2, debug)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error, file=sys.stderr)
            sys.exit(2)
        if hasattr(error, "format_message"):  # typer's usage errors, whose class is private to it
            sys.exit(_fail(f"{error.format_message()}{_help_hint(error)}", 2, debug))
        hint = "this is a bug: run again with --debug and report it"
        status = _fail(f"{type(error).__name__}: {' '.join(str(error).split())} ({hint})", 2, debug)
    sys.exit(status if isinstance(status, int) else 0)


def _set_up(debug: bool) -> None:
    cache_bytecode(cache_directory() / "bytecode")
    # Of other libraries only errors are shown: their warnings are rarely the user's concern.
    logging.basicConfig(level=logging.INFO if debug else logging.ERROR, format="%(message)s", stream=sys.stderr)
    logging.getLogger("vhm").setLevel(logging.DEBUG if debug else logging.INFO)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded without the user's knowledge
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    warnings.filterwarnings("ignore")


def _fail(message: str, status: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"vhm: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _help_hint(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"; see `{context.command_path} --help`" if context else ""


if __name__ == "__main__":
    main()
