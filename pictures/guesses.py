"""Guesses of hidden tokens as text: the passage with numbered gaps, and a table of the guesses."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from missing_bits.pictures import canvas

_WIDTH = 96  # characters of a line
_LONGEST = 18  # characters of a token that are shown


class Candidate(NamedTuple):
    """A token that may have stood there."""

    token: str
    probability: float


class Gap(NamedTuple):
    """A hidden token."""

    truth: str
    shown: str
    """What stands in its place: mostly "[MASK]", at times another token or the true one."""
    candidates: tuple[Candidate, ...]
    """The likeliest first."""


def page(documents: Sequence[str], gaps: Sequence[Gap], title: str) -> str:
    """A passage, and what was guessed in its gaps.

    Args:
      documents: of the passage, with [1], [2], ... where tokens are hidden.
      gaps: in this order.
      title: of the page.
    """
    right = sum(gap.candidates[0].token == gap.truth for gap in gaps)
    headline = f"{title}: {right} of {len(gaps)} hidden tokens guessed"
    lines = [headline, "=" * len(headline), ""]
    for document in documents:
        lines += textwrap.wrap(
            " ".join(document.split()),
            _WIDTH,
            initial_indent="  ",
            subsequent_indent="  ",
            break_on_hyphens=False,
        )
        lines.append("")
    rows = [("", "hidden", "", "guesses, the likeliest first", "")]
    for number, gap in enumerate(gaps, 1):
        said = "  ".join(
            f"{canvas.short(token, _LONGEST):<{_LONGEST}}{100 * probability:3.0f} %"
            for token, probability in gap.candidates
        )
        mark = "yes" if gap.candidates[0].token == gap.truth else ""
        seen = "" if gap.shown == "[MASK]" else f"shown as {canvas.short(gap.shown, _LONGEST)}"
        rows.append((f"[{number}]", canvas.short(gap.truth, _LONGEST), mark, said, seen))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines) + "\n"
