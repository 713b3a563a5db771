"""What networks on sequences remember: how far back, and at what lengths."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from missing_bits.pictures import canvas


def reach(size: np.ndarray, title: str, path: Path) -> None:
    """Draws how much the last answer depends on what came before it.

    Args:
      size: of the gradient of the last answer to the input k steps before, [T].
      title: the title.
      path: the PNG file to write.
    """
    figure = canvas.figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.semilogy(np.arange(len(size)), np.maximum(size, 1e-30), color=canvas.COLORS[0])
    axes.set(
        title=f"How far back the last answer reaches\n{title}",
        xlabel="steps before the answer",
        ylabel="size of the gradient to the input",
    )
    _plain(axes)
    figure.savefig(path, dpi=120)


def lengths(
    sizes: Sequence[int],
    accuracy: Sequence[float],
    chance: float,
    trained: int,
    title: str,
    path: Path,
) -> None:
    """Draws the accuracy at several lengths or delays.

    Args:
      sizes: the lengths or delays, rising.
      accuracy: at each, 0 to 1.
      chance: what guessing reaches.
      trained: the length of training.
      title: the title.
      path: the PNG file to write.
    """
    figure = canvas.figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(sizes, accuracy, color=canvas.COLORS[0], marker="o", label="accuracy")
    axes.axhline(chance, color=canvas.COLORS[3], linestyle="--", linewidth=1, label="guessing")
    axes.axvline(trained, color=canvas.COLORS[9], linewidth=1, label="length in training")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(sizes), [f"{size:,}" for size in sizes])
    axes.set_ylim(0, 1.02)
    axes.set(title=f"Lengths: {title}", xlabel="length or delay, in steps", ylabel="accuracy")
    axes.legend(frameon=False)
    _plain(axes)
    figure.savefig(path, dpi=120)


def _plain(axes) -> None:
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
