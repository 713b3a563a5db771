"""A sweep's trials as a table."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from missing_bits.sweeps.folder import Standing, Trial


def table(
    trials: Sequence[Trial],
    standings: Mapping[str, Standing],
    steps: Mapping[str, int],
    options: Sequence[str],
    headline: str,
) -> Table:
    """One line for each trial.

    Args:
      trials: in the order of the lines.
      standings: how far each is, by its name.
      steps: what those that run have done of their budget.
      options: those that are varied.
      headline: the name of the score.
    """
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    several = len({trial.exp for trial in trials}) > 1
    ranged = any(one.interval is not None for one in standings.values())
    columns = ["trial", *(["exp"] if several else []), *options, "state", headline]
    for name in [*columns, *(["95 %"] if ranged else []), "seconds", "compiling"]:
        drawn.add_column(Text(name), justify="left" if name in ("exp", "state") else "right")
    for trial in trials:
        one = standings[trial.name]
        running = trial.name in steps and one.state in ("open", "stopped")
        state = f"running, {steps[trial.name]:,}" if running else one.state
        cells = [
            trial.name,
            *([trial.exp] if several else []),
            *(trial.settings.get(option, "") for option in options),
            f"failed: {one.why}" if one.state == "failed" else state,
            _number(one.score),
            *([_interval(one.interval)] if ranged else []),
            "" if one.seconds is None else f"{one.seconds:,.0f}",
            "" if one.compile_seconds is None else f"{one.compile_seconds:.1f}",
        ]
        drawn.add_row(*(Text(cell) for cell in cells))
    return drawn


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}"


def _number(score: float | None) -> str:
    return "" if score is None else f"{score:.4g}"


def describe(trial: Trial) -> str:
    """A trial in a few words, such as "0003 (n-step=3, discount=0.99)"."""
    settings = ", ".join(f"{option}={value}" for option, value in trial.settings.items())
    return f"{trial.name} ({settings})" if settings else f"{trial.name} ({trial.exp})"
