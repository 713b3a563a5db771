"""Policies as they are handed over: what an agent has learned to do, in a file that says so.

    policy = policies.load("runs/dqn/...")  # the folder of a finished run
    actions = policy(observations)  # [B, ...] to int32 [B]

The file is laid out as those of encoders (handover.py): a card, and the network's parameters.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from missing_bits import handover
from missing_bits.envs.environments import stored_dtype
from missing_bits.envs.steps import Player
from missing_bits.errors import UserError, require
from missing_bits.losses import values
from missing_bits.nets import q_networks

_DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "float16", "float32", "float64"]
MOST_NOISE = 1_000
"""Scale of the noise that a policy may have been trained with."""
_LARGEST = {
    "observation_size": 1 << 24,
    "hidden_layers": 100,
    "num_actions": 1 << 16,
    "quantiles": values.MOST,
    "atoms": values.MOST,
}


@dataclass(frozen=True)
class QPolicy:
    """The greedy policy of a Q-network, of any member of the DQN family.

    These fields are all that its file must say besides its parameters.
    """

    observation_shape: tuple[int, ...]
    """Features, or height, width and channels."""
    observation_dtype: str
    """As the environment gives them, such as "uint8"."""
    low: tuple[float | None, ...]
    """Lower bounds of an observation's numbers, by which they are scaled, in their order; None for
    none. One stands for all where all are the same."""
    high: tuple[float | None, ...]
    """Upper bounds likewise."""
    num_actions: int
    """A; actions count from 0."""
    hidden_sizes: tuple[int, ...]
    """Widths of the hidden layers, in units."""
    head: str = "scalar"
    """A name that `values.make` knows."""
    quantiles: int = 32
    """Of the quantile and the implicit head."""
    atoms: int = 51
    """Of the categorical head, from `value_low` to `value_high`."""
    value_low: float = -100.0
    """Lowest return of the categorical head."""
    value_high: float = 100.0
    """Highest return of the categorical head."""
    dueling: bool = False
    """Streams for the state's value and the actions' advantages."""
    noisy: float = 0.0
    """Scale of the noise with which the network was trained; the policy itself draws none."""

    def __post_init__(self) -> None:
        q_networks.check_shape(self.observation_shape)
        size = math.prod(self.observation_shape)
        sizes = {
            "observation_size": size,
            "num_actions": self.num_actions,
            "quantiles": self.quantiles,
            "atoms": self.atoms,
        }
        for what, number in sizes.items():
            require(
                1 <= number <= _LARGEST[what],
                f"A policy's {what} is {number}; it must lie between 1 and {_LARGEST[what]:,}.",
            )
        most = _LARGEST["hidden_layers"]
        require(
            len(self.hidden_sizes) <= most,
            f"A policy's hidden layers are {len(self.hidden_sizes)}; there may be {most}.",
        )
        require(
            all(side > 0 for side in (*self.observation_shape, *self.hidden_sizes)),
            f"A policy's sizes are {self.observation_shape} and {self.hidden_sizes}; each must be "
            "at least 1.",
        )
        require(
            self.observation_dtype in _DTYPES,
            f"A policy's observations are one of {', '.join(_DTYPES)}, not "
            f"{self.observation_dtype[:40]!r}.",
        )
        require(
            {len(self.low), len(self.high)} <= {1, size},
            f"A policy of {size} numbers has {len(self.low)} lower and {len(self.high)} upper "
            "bounds; it must have one for each or one for all.",
        )
        low = np.array([-np.inf if bound is None else bound for bound in self.low])
        high = np.array([np.inf if bound is None else bound for bound in self.high])
        require(
            bool((low <= high).all()),
            "A policy's lower bounds are not all below its upper ones.",
        )
        require(
            0 <= self.noisy <= MOST_NOISE,
            f"A policy's noise is {self.noisy}; it must lie between 0 and {MOST_NOISE:,}.",
        )
        values.check_categorical(self.value_low, self.value_high, self.atoms)
        self.value_head()
        self.network()

    @property
    def dtype(self) -> jnp.dtype:
        """Of the observations that `apply` takes: uint8 as it is, float32 for all else."""
        return stored_dtype(np.dtype(self.observation_dtype))

    def value_head(self) -> values.Head:
        """What the network's numbers mean."""
        return values.make(self.head, self.quantiles, self.atoms, (self.value_low, self.value_high))

    def network(self) -> hk.Transformed:
        """The network, see `q_networks.for_observations`."""
        low, high = (
            np.broadcast_to(
                np.reshape(
                    [missing if bound is None else bound for bound in bounds],
                    self.observation_shape if len(bounds) > 1 else (1,) * self._axes,
                ),
                self.observation_shape,
            )
            for bounds, missing in ((self.low, -np.inf), (self.high, np.inf))
        )
        space = gym.spaces.Box(low, high, dtype=np.float64)
        return q_networks.for_observations(
            space,
            q_networks.Shape(
                self.hidden_sizes,
                self.num_actions,
                self.value_head().outputs,
                self.dueling,
                self.noisy,
            ),
        )

    @property
    def _axes(self) -> int:
        return len(self.observation_shape)

    def init(self, key: jax.Array) -> hk.Params:
        """Fresh parameters."""
        observations = jnp.zeros((1, *self.observation_shape), self.dtype)
        return self.network().init(key, observations, self.value_head().taus(None, 1))

    def apply(self, params: hk.Params, observations: jax.Array) -> jax.Array:
        """The best actions, by the mean of what they return.

        Args:
          params: of this policy.
          observations: [B, ...] of `dtype`; `prepare` makes them of others.

        Returns:
          int32 [B], from 0.
        """
        head = self.value_head()
        taus = head.taus(None, observations.shape[0])
        raw = self.network().apply(params, None, observations, taus)
        return jnp.argmax(head.mean(raw), axis=-1).astype(jnp.int32)

    def prepare(self, observations: ArrayLike) -> jax.Array:
        """Observations from anywhere as `apply` takes them.

        Args:
          observations: [B, ...], numbers; those of an environment of bytes must be integers from 0
            to 255. In a traced function only their shape and type are known, and checked.

        Raises:
          UserError: they are none of these.
        """
        traced = isinstance(observations, jax.core.Tracer)
        try:
            found = observations if traced else np.asarray(observations)
        except ValueError as error:
            raise UserError(
                "The observations are of different shapes; stack equal ones."
            ) from error
        shape = found.shape
        alone = (
            " Give a single one as observation[None]." if shape == self.observation_shape else ""
        )
        require(
            shape[1:] == self.observation_shape and len(shape) == 1 + self._axes,
            f"The observations are of shape {shape}; this policy takes (observations, "
            f"{', '.join(map(str, self.observation_shape))}).{alone}",
        )
        takes_bytes = self.dtype == jnp.uint8
        kinds = "biu" if takes_bytes else "biuf"
        require(
            found.dtype.kind in kinds,
            f"The observations are of type {found.dtype}; this policy takes those of an "
            f"environment that gives {self.observation_dtype}.",
        )
        if traced:
            return found.astype(self.dtype)
        if takes_bytes and found.size:
            require(
                found.min() >= 0 and found.max() <= 255,
                f"The observations are integers from {found.min()} to {found.max()}; this policy "
                "takes bytes.",
            )
        with np.errstate(over="ignore"):
            cast = found.astype(self.dtype)
        require(
            bool(np.isfinite(cast).all()),
            "The observations hold NaN or infinite numbers, or some beyond float32.",
        )
        return jnp.asarray(cast)


_KINDS = {"q_network": QPolicy}


def of_network(
    space: gym.spaces.Box, num_actions: int, scaled: bool = True, **settings: Any
) -> QPolicy:
    """The policy of a network for the observations of an environment.

    Args:
      space: of the observations. Bounds of a million and more count as none, as they do for the
        network.
      num_actions: A.
      scaled: whether the bounds of vectors count, by which the network scales them; those of images
        always do.
      settings: further fields of `QPolicy`.
    """
    unbounded = (None,)
    counts = scaled or len(space.shape) > 1
    return QPolicy(
        tuple(map(int, space.shape)),
        space.dtype.name,
        _bounds(space.low) if counts else unbounded,
        _bounds(space.high) if counts else unbounded,
        num_actions,
        **settings,
    )


def _bounds(array: np.ndarray) -> tuple[float | None, ...]:
    flat = array.ravel().tolist()
    found = [None if abs(bound) >= q_networks.UNBOUNDED else float(bound) for bound in flat]
    return tuple(found[:1] if len(set(found)) == 1 else found)


def player(policy: QPolicy) -> Player:
    """A policy as evaluation plays it; what was learned are its parameters."""

    @jax.jit
    def act(params: hk.Params, memory: Any, s: jax.Array, reset: jax.Array) -> tuple[Any, Any]:
        return policy.apply(params, s), memory

    return Player(lambda num_envs: (), act)


def save(path: Path, policy: QPolicy, params: hk.Params, facts: Mapping[str, Any]) -> None:
    """Writes a policy as safetensors, with a card that says what is in it.

    Args:
      path: the .safetensors file; its folder is made.
      policy: what the parameters belong to.
      params: as arrays on the host.
      facts: what else is known: the configuration, the protocol, the seed, the scores.
    """
    card = {"kind": "q_network", "policy": dataclasses.asdict(policy), **facts}
    handover.save(path, {"params": params}, card)


@functools.partial(jax.jit, static_argnums=0)
def _act(policy: QPolicy, params: hk.Params, observations: jax.Array) -> jax.Array:
    return policy.apply(params, observations)


class Loaded(NamedTuple):
    """A policy from a run."""

    policy: QPolicy
    params: hk.Params
    card: dict[str, Any]
    """What is known: exp, config (the method's settings), protocol (the environment and how it was
    judged in it), seed, step, scores."""

    def __call__(self, observations: ArrayLike) -> jax.Array:
        """Actions int32 [B], from 0, for observations [B, ...].

        Raises:
          UserError: they are nothing that this policy takes.
        """
        return _act(self.policy, self.params, self.policy.prepare(observations))


PLATFORMS = ("cpu", "cuda", "tpu")
"""On which an exported policy runs."""


def export(loaded: Loaded) -> bytes:
    """A policy as a function of its own, parameters included, which runs without this suite.

        actions = jax.export.deserialize(written).call(observations)

    It maps observations [B, ...], uint8 where the environment gives bytes and float32 for all else,
    to actions int32 [B], for any B, on `PLATFORMS`.
    """
    policy = loaded.policy
    (batch,) = jax.export.symbolic_shape("batch")
    like = jax.ShapeDtypeStruct((batch, *policy.observation_shape), policy.dtype)
    act = jax.jit(lambda observations: policy.apply(loaded.params, observations))
    return bytes(jax.export.export(act, platforms=PLATFORMS)(like).serialize())


def load(run: str | Path, seed: int | None = None) -> Loaded:
    """The policy that a run has left behind.

    Args:
      run: the run's folder, or a .safetensors file out of it.
      seed: which seed's; by default the first.

    Raises:
      UserError: there is none, or the file is damaged or foreign. What it claims is checked before
        its tensors are read.
    """
    path = Path(run)
    if path.suffix != ".safetensors":
        path = handover.file_in(path, "policy", seed, "a finished run of an agent")
    read = handover.load(path, _understood)
    return Loaded(read.what, read.trees["params"], read.card)


def _understood(card: Mapping[str, Any]) -> tuple[QPolicy, handover.Trees]:
    """The policy that a card describes, and the shapes of its parameters."""
    needed = {"kind": str, "policy": dict}
    others = {"exp": str, "config": dict, "protocol": dict, "seed": int, "scores": dict}
    handover.check_entries(card, needed, others)
    kind = card["kind"]
    known = " or ".join(_KINDS)
    handover.expect(kind in _KINDS, f"its card tells of {kind[:40]!r}, not of {known}")
    policy = handover.make(_KINDS[kind], card["policy"], "policy")
    return policy, {"params": jax.eval_shape(policy.init, jax.random.key(0))}
