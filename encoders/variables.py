"""What an encoder needs besides its inputs."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Variables(NamedTuple):
    """What an encoder needs besides its inputs."""

    params: Any
    state: Any  # moving averages of batch normalization


def encoder_of(learned: tuple[Mapping[str, Any], Mapping[str, Any]]) -> Variables:
    """The encoder's part of a method's parameters and statistics, each under its name "encoder"."""
    return Variables(*(part["encoder"] for part in learned))
