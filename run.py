"""The door: `python run.py --exp=NAME` trains an experiment; `--list` and `--help` tell what there is."""

import difflib
import importlib
import os
import sys
import warnings

# name: (module:class, what it is, default environment or data set)
EXPERIMENTS = {
    "dqn": (
        "missing_bits.agents.dqn:DQN",
        "Deep Q-network, optionally double (Mnih 2015, van Hasselt 2016)",
        "CartPole-v1",
    ),
    "barlow_twins": (
        "missing_bits.ssl.barlow_twins:BarlowTwins",
        "Barlow Twins: views agree, features do not repeat (Zbontar 2021)",
        "photos",
    ),
    "supervised": (
        "missing_bits.ssl.supervised:Supervised",
        "The same networks trained with labels: what to compare with",
        "photos",
    ),
}


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
    from missing_bits.errors import UserError
    from missing_bits.loop import command_line

    if "--list" in arguments:
        for name, (_, summary, default) in EXPERIMENTS.items():
            print(f"{name:<18}{summary:<76}{default}")
        return 0
    name, rest = command_line.take(arguments, "--exp")
    if name is None:
        print(f"{__doc__}\n\nExperiments: {', '.join(EXPERIMENTS)}. Options of one: python run.py --exp=NAME --help")
        return 0 if {"--help", "-h"} & set(arguments) else 2
    if name not in EXPERIMENTS:
        close = difflib.get_close_matches(name, EXPERIMENTS, n=1, cutoff=0.0)
        raise UserError(f"--exp={name} is not an experiment. Did you mean {close[0]}? python run.py --list names all.")
    module_name, class_name = EXPERIMENTS[name][0].split(":")
    module = importlib.import_module(module_name)
    config, run = command_line.parse(name, module.Config, module.PRESETS, rest)
    from missing_bits.loop.train import train

    train(name, getattr(module, class_name), config, run)
    return 0


def _warn(message: Warning | str, *_: object) -> None:
    """Shows a warning as one line: where it was raised is no business of the user's."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    warnings.showwarning = _warn
    sys.exit(main(sys.argv[1:]))
