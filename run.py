"""The door: `python run.py --exp=NAME` trains; `--list` and `--help` tell what there is.

`--exp=my_package.my_module:MyMethod` trains a method from outside this repository, `--config=FILE`
reads options from a TOML file or an earlier run's config.json.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import warnings
from pathlib import Path

READY = "Getting ready: JAX takes a few seconds to start."
INSTALL = """python -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt"""


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    from missing_bits.errors import UserError

    try:
        return _dispatch(arguments)
    except UserError as error:
        return _fail(str(error), 2)
    except BrokenPipeError:  # what reads the output, such as `head`, has had enough
        _write_nowhere()
        return 141
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _fail(
            f"there is not enough memory ({str(error)[:200]}). Make the batch, the network or the "
            "replay smaller; a run that was saved goes on with --run.resume.",
            2,
        )


def _fail(message: str, status: int) -> int:
    print(f"error: {_line(message)}", file=sys.stderr)
    return status


def _line(message: str) -> str:
    """A message in one line; what a file put into it does not reach a terminal as a command."""
    joined = " ".join(message.split())
    return "".join(letter if letter.isprintable() else "?" for letter in joined)


def _not_installed_here() -> str | None:
    """What is wrong with the installation, in a sentence; None if this very folder is installed."""
    spec = importlib.util.find_spec("missing_bits")
    if spec is None:
        return f"this Python ({sys.executable}) has no missing_bits. Install it: {INSTALL}"
    here = Path(__file__).resolve().parent
    installed = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    if here not in installed:
        return (
            f"{here / 'run.py'} would run the code of another folder, {installed[0]}, which this "
            "virtual environment has installed. Make one for this folder, or install it here: "
            "pip install -r requirements.txt"
        )
    return None


def _dispatch(arguments: list[str]) -> int:
    from missing_bits.experiments import COMMANDS, EXPERIMENTS

    if "--version" in arguments:
        print(f"missing-bits {importlib.metadata.version('missing-bits')}")
        return 0
    if "--list" in arguments:
        for name, row in EXPERIMENTS.items():
            print(f"{name:<17}{row.summary:<71}{row.default}")
        return 0
    if arguments and arguments[0] in COMMANDS:
        return importlib.import_module(COMMANDS[arguments[0]].where).main(arguments[1:])
    from missing_bits.commands import command_line

    chosen = command_line.parse(arguments)
    asks_for_help = not {"--help", "-h"}.isdisjoint(arguments)
    if chosen is None and arguments and not asks_for_help:
        known = [f"--exp={name}" for name in EXPERIMENTS]
        return _fail(
            f"{arguments[0]} names no experiment. Give one ({', '.join(known)}) or a command "
            f"({', '.join(COMMANDS)}) first; --help says more.",
            2,
        )
    if chosen is None:
        usages = "\n".join(f"  {command.usage}" for command in COMMANDS.values())
        print(f"{__doc__}\nExperiments: {', '.join(EXPERIMENTS)}.")
        print(f"Options of one: python run.py --exp=NAME --help\nBesides training:\n{usages}")
        return 0 if asks_for_help else 2
    from missing_bits.loop.process import Owner
    from missing_bits.loop.train import train

    train(chosen.found.method, chosen.config, chosen.run, name=chosen.found.name, process=Owner())
    return 0


def _warn(message: Warning | str, *_: object) -> None:
    """Shows a warning as one line: where it was raised is no business of the user's."""
    with contextlib.suppress(OSError, ValueError):  # nobody need listen
        print(f"warning: {_line(str(message))}", file=sys.stderr)


def console() -> None:
    """The console script `missing-bits`."""
    warnings.showwarning = _warn
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that knows no umlauts is no reason to stop
            stream.reconfigure(errors="replace")
    arguments = sys.argv[1:]
    wrong = _not_installed_here()
    if not wrong and _trains(arguments):
        with contextlib.suppress(OSError):  # nobody need listen
            print(READY, flush=True)
    status = _fail(wrong, 2) if wrong else main(arguments)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # nobody reads any more, or the disk is full; the run itself was not harmed
        _write_nowhere()
    sys.exit(status)


def _trains(arguments: list[str]) -> bool:
    """Whether a command line asks for training, as far as one sees before anything is imported."""
    asks_only = not {"--help", "-h", "--list", "--version"}.isdisjoint(arguments)
    return bool(arguments) and arguments[0].startswith("--") and not asks_only


def _write_nowhere() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    console()
