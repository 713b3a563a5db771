"""The door: `python run.py --exp=NAME` trains an experiment; `--list` and `--help` tell what there is.

`python run.py fill --from=RUN --text="..."` asks a language model for what it would write in place of [MASK].
"""

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
    "ibot": (
        "missing_bits.ssl.ibot:IBOT",
        "iBOT: guess what a moving average makes of the whole (Zhou 2021)",
        "photos",
    ),
    "masked_image": (
        "missing_bits.ssl.mae:MaskedImage",
        "Masked image modeling: MAE (He 2022) and SimMIM (Xie 2022)",
        "photos",
    ),
    "masked_language": (
        "missing_bits.ssl.bert:MaskedLanguage",
        "Masked language modeling: guess hidden tokens (BERT, Devlin 2019)",
        "topics",
    ),
    "finetune": (
        "missing_bits.supervised.finetune:Finetune",
        "Fine-tune an encoder on few labels: full, linear or LoRA (Hu 2021)",
        "of the run",
    ),
    "supervised": (
        "missing_bits.supervised.classify:Supervised",
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
    if arguments[:1] == ["fill"]:
        return _fill(arguments[1:])
    name, rest = command_line.take(arguments, "--exp")
    if name is None:
        print(
            f"{__doc__}\n\nExperiments: {', '.join(EXPERIMENTS)}. Options of one: python run.py --exp=NAME --help"
        )
        return 0 if {"--help", "-h"} & set(arguments) else 2
    if name not in EXPERIMENTS:
        close = difflib.get_close_matches(name, EXPERIMENTS, n=1, cutoff=0.0)
        raise UserError(
            f"--exp={name} is not an experiment. Did you mean {close[0]}? python run.py --list names all."
        )
    module_name, class_name = EXPERIMENTS[name][0].split(":")
    module = importlib.import_module(module_name)
    config, run = command_line.parse(name, module.Config, module.PRESETS, rest)
    from missing_bits.loop.train import train

    train(name, getattr(module, class_name), config, run)
    return 0


def _fill(arguments: list[str]) -> int:
    from missing_bits.errors import require
    from missing_bits.loop import command_line

    usage = 'python run.py fill --from=RUN --text="The [MASK] statement ..." [--top=5]'
    run, rest = command_line.take(arguments, "--from")
    text, rest = command_line.take(rest, "--text")
    top, rest = command_line.take(rest, "--top")
    if {"--help", "-h"} & set(rest):
        print(f"{usage}\n\nPrints the likeliest tokens for each [MASK], with their probabilities.")
        return 0
    require(not rest, f"{' '.join(rest)} is not an option of fill: {usage}")
    require(run is not None and text is not None, f"fill needs --from and --text: {usage}")
    require(
        top is None or top.isdecimal(), f"--top={top} is not a number of candidates, such as 5."
    )
    from missing_bits.commands.fill import fill

    print(fill(run, text, int(top or 5)))
    return 0


def _warn(message: Warning | str, *_: object) -> None:
    """Shows a warning as one line: where it was raised is no business of the user's."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    warnings.showwarning = _warn
    sys.exit(main(sys.argv[1:]))
