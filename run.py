"""The door: `python run.py --exp=NAME` trains; `--list` and `--help` tell what there is.

`--exp=my_package.my_module:MyMethod` trains a method from outside this repository, `--config=FILE`
reads options from a TOML file or an earlier run's config.json.
"""

import importlib
import importlib.metadata
import os
import sys
import warnings


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    from missing_bits.errors import UserError

    try:
        return _dispatch(arguments)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # what reads the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def _dispatch(arguments: list[str]) -> int:
    from missing_bits.experiments import COMMANDS, EXPERIMENTS

    if "--version" in arguments:
        print(f"missing-bits {importlib.metadata.version('missing-bits')}")
        return 0
    if "--list" in arguments:
        for name, row in EXPERIMENTS.items():
            print(f"{name:<14}{row.summary:<68}{row.default}")
        return 0
    if arguments and arguments[0] in COMMANDS:
        return importlib.import_module(COMMANDS[arguments[0]].where).main(arguments[1:])
    from missing_bits.commands import command_line

    chosen = command_line.parse(arguments)
    if chosen is None:
        usages = "\n".join(f"  {command.usage}" for command in COMMANDS.values())
        print(f"{__doc__}\nExperiments: {', '.join(EXPERIMENTS)}.")
        print(f"Options of one: python run.py --exp=NAME --help\nBesides training:\n{usages}")
        return 0 if {"--help", "-h"} & set(arguments) else 2
    from missing_bits.loop.process import Owner
    from missing_bits.loop.train import train

    train(chosen.found.method, chosen.config, chosen.run, name=chosen.found.name, process=Owner())
    return 0


def _warn(message: Warning | str, *_: object) -> None:
    """Shows a warning as one line: where it was raised is no business of the user's."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def console() -> None:
    """The console script `missing-bits`."""
    warnings.showwarning = _warn
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    console()
