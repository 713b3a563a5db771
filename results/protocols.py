"""Protocols of evaluations in words, as files tell them: any JSON may stand there."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from missing_bits.pictures import canvas
from missing_bits.results import settings

_UNITS = {"time_limit": " steps", "cut_at": " steps"}
_APART = ("env", "seeds")  # what is said of a run anyway
_LONGEST = 60  # characters of a value


def words(protocol: Mapping[str, Any]) -> str:
    """A protocol on a line: "time limit 500 steps, action set 2 actions, ..."; what is not there
    (no wrappers, no cut) is left out. Seeds stand at the end, as "seeds 0-9"."""
    said = [
        f"{name(entry)} {value(entry, mine)}"
        for entry, mine in protocol.items()
        if entry not in _APART and mine is not None and mine != [] and mine != {}
    ]
    seeds = protocol.get("seeds")
    if isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds):
        said.append(f"seeds {ranges(seeds)}")
    return ", ".join(said)


def name(entry: str) -> str:
    """An entry's name as it is said."""
    return canvas.short(entry.replace("_", " "), _LONGEST)


def value(entry: str, mine: Any) -> str:
    """The value of an entry as it is said."""
    if isinstance(mine, float):
        return f"{mine:g}"
    said = json.dumps(mine) if isinstance(mine, dict) else settings.text(mine)
    return canvas.short(said, _LONGEST) + _UNITS.get(entry, "")


def differing(protocols: Sequence[Mapping[str, Any]]) -> list[str]:
    """The entries in which protocols differ, but for seeds."""
    entries = dict.fromkeys(entry for protocol in protocols for entry in protocol)
    return [
        entry
        for entry in entries
        if entry not in _APART
        and len({json.dumps(protocol.get(entry), sort_keys=True) for protocol in protocols}) > 1
    ]


def ranges(seeds: Iterable[int]) -> str:
    """Numbers in order, those in a row by their ends: "0-4, 7"."""
    ordered = sorted(set(seeds))
    breaks = [i for i, (one, two) in enumerate(pairwise(ordered), 1) if two != one + 1]
    parts = [ordered[i:j] for i, j in pairwise([0, *breaks, len(ordered)])]
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts)
