"""What an encoder needs besides its inputs."""

from typing import NamedTuple

import haiku as hk


class Variables(NamedTuple):
    """What an encoder needs besides its inputs."""

    params: hk.Params
    state: hk.State  # moving averages of batch normalization; empty without any
