"""Environments on the host and on the device, and the way of an observation from them to the loss.

Axes: E environments of one seed, or this device's share of them; V vector steps between two
updates; S seeds; K updates in one call. An agent is written for one seed and one update: it sees
[E, ...] when it acts and [E, V, ...] when it learns.

1. An observation [E, ...] waits in its environments. What the agent remembers of the episode, its
   memory [E, ...], waits beside it; a flag [E] says where an episode begins and the memory is of
   the one before.
2. The agent answers: `act(learned, memory, observation, reset, env_steps, key)` returns
   `Acted(action, memory, extras)`. The loop asks on behalf of the environments, and binds `learned`
   to what the parameters are in this update. On the host, `Actor.next` has the observations
   [S, E, ...] of all seeds answered in one call, and the loop keeps the memory. On the device,
   `DeviceActor.next` asks inside the update, and keeps the memory itself.
3. The environments step: rewards, ends and successor observations [E, ...] join the observation,
   the action and the extras in one row of `Steps`. Back to 1, until the steps that the update waits
   for are made.
4. The rows become one batch `Steps` [E, V, ...]; V is always the same, and rows that were not
   needed are not valid. A batch from the host is [S, E, V, ...]; the loop makes it
   [K, S, E, V, ...], lays S and E out over devices and walks along K. Acting needs the parameters
   of the update before, or with `behind` of the one before that: K is as many updates as need no
   further steps, more than one where E steps are made at once and updates come more often.
5. `step(state, batch, key)`, one update of one seed, gets `Steps` [E, V, ...] of either kind. An
   agent with a replay inserts them and samples transitions [B, ...]; another one learns from them
   as they are. Losses are written for one transition or one sequence, and mapped.

`Envs.find` decides which kind an id names; no agent branches on it.
"""

import contextlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from missing_bits.envs import functional, protocol, wrappers
from missing_bits.envs.actor import Actor
from missing_bits.envs.contract import Checked, as_jax_holds, in_one_line, in_words
from missing_bits.envs.episodes import Frame, Judge, Judging, record, tell_of_cuts
from missing_bits.envs.functional import DeviceActor
from missing_bits.envs.gymnasium_envs import (
    SET_HERE,
    VECTORIZATIONS,
    Recipe,
    check_spaces,
    close,
    episode_seed,
    make,
    make_vector,
)
from missing_bits.envs.steps import Player
from missing_bits.errors import UserError, require, require_between, require_positive
from missing_bits.notes import say

_NO_LIMIT = 2**31 - 1  # steps: more than an episode has
_TRIED_STEPS = 3  # of an episode, before anything is learned from others
_NOTES = {
    "phys2d/CartPole-v1": "phys2d/CartPole-v1 is not CartPole-v1: Gymnasium's JAX version adds "
    "mass and length where it should multiply, and its poles fall differently. Scores in the two "
    "do not compare. jax/CartPole-v1 is CartPole-v1 in JAX.",
}
"""What must be known of an environment that is trained on."""


class HostEnvironments:
    """Gymnasium environments: an `Actor` on the host makes the steps, an update receives them.

    Args:
      recipe: what an environment is made of.
      num_envs: environments stepped together.
      period: environment steps per update.
      vectorization: how they are stepped: "serial", "async" or "native".
      judging: how episodes of evaluations are played.

    Attributes:
      protocol: of evaluations, see `protocol.of`.
    """

    def __init__(
        self,
        recipe: Recipe,
        num_envs: int,
        period: int,
        vectorization: str,
        judging: Judging,
    ) -> None:
        env = make(recipe)
        try:
            check_spaces(recipe.env, env)
            _try(recipe, env)
            self.protocol = protocol.of(recipe, env, judging)
        finally:
            close(env, recipe.env)
        if vectorization == "native":
            _try_native(recipe, num_envs, env)
        self.env_id = recipe.env
        self.observation_space = as_jax_holds(env.observation_space)
        self.num_actions = int(env.action_space.n)
        self._recipe = recipe
        self._num_envs = num_envs
        self._period = period
        self._vectorization = vectorization
        self._judging = judging
        self._judge = Judge(recipe, judging)

    def source(self, seeds: Sequence[int]) -> Actor:
        """What makes every update's steps, on the host.

        A run closes it at its end: the environments of evaluations are closed with it.
        """
        with_it = self._judge.close
        return Actor(
            self._recipe, self._num_envs, seeds, self._period, self._vectorization, with_it
        )

    def returns(self, player: Player, learned: Any, episodes: int, key: jax.Array) -> np.ndarray:
        """The returns [episodes] of whole episodes in environments of their own, see `Judge`."""
        return self._judge.returns(player, learned, episodes, key)

    def record(self, player: Player, learned: Any, seed: int) -> Iterator[Frame]:
        """One episode, frame by frame; none where the environment draws nothing."""
        return record(self._recipe, self._judging, player, learned, seed)


class FunctionalEnvironments:
    """JAX-native environments: the update itself makes the steps.

    Args:
      recipe: what an environment is made of; no wrappers.
      env: the environment that Gymnasium makes of it.
      num_envs: environments stepped together, over all devices.
      period: environment steps per update.
      judging: how episodes of evaluations are played.

    Attributes:
      protocol: of evaluations, see `protocol.of`.
    """

    def __init__(
        self,
        recipe: Recipe,
        env: gym.Env,
        num_envs: int,
        period: int,
        judging: Judging,
    ) -> None:
        func_env = env.unwrapped.func_env
        check_spaces(recipe.env, func_env)
        _try_functional(recipe.env, func_env)
        self.protocol = protocol.of(recipe, env, judging)
        self.env_id = recipe.env
        self.observation_space = func_env.observation_space
        self.num_actions = int(func_env.action_space.n)
        self._recipe = recipe
        self._env = func_env
        self._num_envs = num_envs
        self._period = period
        self._judging = judging
        self._limit = env.spec.max_episode_steps or _NO_LIMIT
        self._returns = jax.jit(self._play, static_argnums=(0, 2))

    def source(self, seeds: Sequence[int]) -> DeviceActor:
        """What makes every update's steps, on the device; it does not depend on the seeds."""
        if self.env_id in _NOTES:
            say(f"note: {_NOTES[self.env_id]}")
        return DeviceActor(self._env, self._limit, self._num_envs, self._period)

    def returns(self, player: Player, learned: Any, episodes: int, key: jax.Array) -> np.ndarray:
        """The returns [episodes] float32 of whole episodes in environments of their own."""
        returns, is_cut = self._returns(player, learned, episodes, key)
        returns = np.asarray(returns)
        require(
            bool(np.isfinite(returns).all()),
            f"--env={self.env_id}: rewards of an episode sum up to "
            f"{returns[~np.isfinite(returns)][:1]}; each must be a finite number.",
        )
        if is_cut:
            tell_of_cuts(self.env_id, self._judging.steps)
        return returns

    def record(self, player: Player, learned: Any, seed: int) -> Iterator[Frame]:
        """One episode, frame by frame; none where the environment draws nothing."""
        return record(self._recipe, self._judging, player, learned, seed)

    def _play(
        self, player: Player, learned: Any, episodes: int, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return functional.returns(
            self._env, self._limit, self._judging, episodes, player, learned, key
        )


Environments = HostEnvironments | FunctionalEnvironments


@dataclass(frozen=True)
class Envs:
    """The environments that an agent learns from and is judged in."""

    env: str = "CartPole-v1"
    """Gymnasium id with discrete actions; jax/CartPole-v1 runs inside the jitted update."""
    num_envs: int = 1
    """Environments stepped together."""
    vectorization: str = "serial"
    """How host environments are stepped: serial, async (a process each), native (their class)."""
    behind: bool = False
    """Host environments are acted in by the parameters of one update before, while that update is
    computed beside: faster, and just as reproducible, but not the same run."""
    env_kwargs: str = ""
    """What the environment is made with, as a JSON object, such as '{"is_slippery": false}'."""
    wrappers: tuple[str, ...] = ()
    """Around each environment, the innermost first: flatten, one_hot, grayscale, resize:84x84,
    channels_last, frame_stack:4, or your own module:function, which maps an environment to one."""
    eval_episodes: int = 100
    """Episodes of an evaluation, shared evenly by at most 16 environments of its own; of
    JAX-native ones, 128 are played at a time."""
    eval_steps: int = 27_000
    """Environment steps at which an episode of an evaluation is cut; 0 for none."""
    eval_epsilon: float = 0.0
    """Probability of a random action in evaluations; 0 is the greedy policy."""

    def check(self, prefix: str) -> None:
        """Raises `UserError` for settings that cannot run."""
        require_positive(self, "num_envs", "eval_episodes", prefix=prefix)
        require_between(self, 0, _NO_LIMIT, "eval_steps", prefix=prefix)
        require_between(self, 0, 1, "eval_epsilon", prefix=prefix)
        require(
            self.vectorization in VECTORIZATIONS,
            f"--{prefix}vectorization={self.vectorization} is unknown; it is one of "
            f"{', '.join(VECTORIZATIONS)}.",
        )
        self._kwargs(prefix)
        for name in self.wrappers:
            wrappers.find(name)
        require(
            not self.wrappers or self.vectorization != "native",
            f"--{prefix}vectorization=native steps a vector class of the environment's own, which "
            f"wrappers do not fit; leave out --{prefix}wrappers, or use serial or async.",
        )

    def modules(self) -> list[str]:
        """The values that name code to be imported, such as "my_package.envs:Maze-v0"."""
        ids = [self.env] if ":" in self.env else []
        return ids + [name for name in self.wrappers if wrappers.imports_code(name)]

    def recipe(self) -> Recipe:
        """What one environment is made of; `check` holds."""
        return Recipe(self.env, self._kwargs(""), self.wrappers)

    @property
    def judging(self) -> Judging:
        """How episodes of evaluations are played."""
        return Judging(self.eval_steps, self.eval_epsilon)

    def find(self, period: int) -> Environments:
        """The environments that these settings name; `check` holds.

        Args:
          period: environment steps per update.

        Raises:
          UserError: unknown id, missing packages, arguments or wrappers that do not suit the
            environment, spaces that do not suit an agent, or settings that do not apply to
            JAX-native environments.
        """
        recipe = self.recipe()
        judging = self.judging
        env = make(Recipe(recipe.env, recipe.kwargs))
        if not _is_functional(env):
            close(env, self.env)
            return HostEnvironments(recipe, self.num_envs, period, self.vectorization, judging)
        require(
            self.vectorization == "serial",
            f"--vectorization={self.vectorization} is for host environments; {self.env} is "
            "JAX-native.",
        )
        require(
            not self.wrappers,
            f"--wrappers {' '.join(self.wrappers)} are for host environments; {self.env} is "
            "JAX-native.",
        )
        require(
            not self.behind,
            f"--behind is for host environments, whose steps wait for actions; {self.env} is "
            "JAX-native.",
        )
        return FunctionalEnvironments(recipe, env, self.num_envs, period, judging)

    def _kwargs(self, prefix: str) -> dict[str, Any]:
        if not self.env_kwargs:
            return {}
        try:
            kwargs = json.loads(self.env_kwargs)
        except (ValueError, RecursionError):  # numbers of too many digits, lists too deep
            kwargs = None
        require(
            isinstance(kwargs, dict),
            f"--{prefix}env-kwargs={self.env_kwargs[:200]} is no JSON object; write one, such as "
            """'{"is_slippery": false}'.""",
        )
        for name in SET_HERE:
            require(
                name not in kwargs,
                f"--{prefix}env-kwargs='{json.dumps(kwargs)}' sets {name}, which every "
                "environment is given anyway; leave it out.",
            )
        return kwargs


def _is_functional(env: gym.Env) -> bool:
    """Whether an environment is JAX-native, and nothing around it changes what it does.

    A time limit is known here; what else stands around it was given at its registration, and holds
    on the host alone.
    """
    while isinstance(env, gym.Wrapper):
        if not isinstance(env, OrderEnforcing | PassiveEnvChecker | TimeLimit):
            return False
        env = env.env
    return hasattr(env, "func_env")


def _try(recipe: Recipe, env: gym.Env) -> None:
    """Raises `UserError` where the first steps of an environment break its promises.

    Its wrappers are to blame only where the environment without them is sound.

    Args:
      recipe: what the environment is made of.
      env: the environment within its wrappers.
    """
    fault = _fault(recipe.env, env)
    if not fault:
        return
    if not recipe.wrappers:
        raise UserError(f"--env={recipe.env}: {fault} Mend the environment.")
    bare = make(Recipe(recipe.env, recipe.kwargs))
    own_fault = _fault(recipe.env, bare)
    close(bare, recipe.env)
    if own_fault:
        raise UserError(
            f"--env={recipe.env}: {own_fault} Mend the environment; its wrappers are not to blame."
        )
    raise UserError(
        f"--wrappers {' '.join(recipe.wrappers)} around {recipe.env}: {fault} Mend them, or leave "
        "them out."
    )


def _fault(env_id: str, env: gym.Env) -> str:
    """What is wrong with the first steps of two episodes, as a sentence; empty if nothing is.

    What many an environment does is a warning: an observation out of bounds, or episodes that are
    others when they are tried again.
    """
    trial = Checked(env, env_id)
    seed = episode_seed(0, "try", 0, 0)
    try:
        seeded = _first_steps(trial, seed)
        unseeded = _first_steps(trial, None)
        repeats = seeded.equals(_first_steps(trial, seed))
        goes_on = unseeded.equals(_first_steps(trial, None))
    except UserError as error:
        return str(error).removeprefix(f"--env={env_id}: ").rstrip(".") + "."
    for seen in (*seeded.observations, *unseeded.observations):
        beyond = trial.contract.beyond(seen)
        if beyond:
            warnings.warn(f"--env={env_id}: {beyond}.", stacklevel=2)
            break
    if not repeats:
        warnings.warn(
            f"--env={env_id}: the same seed and actions led to other observations or rewards. A "
            "resumed run will not be identical to an uninterrupted one, and scores of one network "
            "will differ. Draw from self.np_random alone, after super().reset(seed=seed).",
            stacklevel=2,
        )
    elif not goes_on:
        warnings.warn(
            f"--env={env_id}: a reset without a seed begins anew from elsewhere, so that scores of "
            "one network will differ. Let it go on from the last seed, as self.np_random does.",
            stacklevel=2,
        )
    return ""


class _Seen(NamedTuple):
    """What the first steps of an episode gave."""

    observations: list[Any]
    rewards: list[float]

    def equals(self, other: "_Seen") -> bool:
        """Whether other steps gave the same; arrays alone are compared."""
        if len(self.observations) != len(other.observations) or self.rewards != other.rewards:
            return False
        pairs = zip(self.observations, other.observations, strict=True)
        return all(np.array_equal(a, b) for a, b in pairs if isinstance(a, np.ndarray))


def _first_steps(trial: Checked, seed: int | None) -> _Seen:
    """Begins an episode, by a seed or without one, and makes steps where actions are discrete."""
    observation, _ = trial.reset(seed=seed)
    seen = _Seen([np.copy(observation)], [])  # some environments have one array for all
    has_steps = isinstance(trial.action_space, gym.spaces.Discrete)
    for i in range(_TRIED_STEPS if has_steps else 0):
        action = i % int(trial.action_space.n)
        observation, reward, terminated, truncated, _ = trial.step(action)
        seen.observations.append(np.copy(observation))
        seen.rewards.append(reward)
        if terminated or truncated:
            break
    return seen


def _try_native(recipe: Recipe, num_envs: int, env: gym.Env) -> None:
    """Raises `UserError` where a vector class differs from its environment or breaks promises."""
    with contextlib.closing(make_vector(recipe, num_envs, 0, "try", "native")) as envs:
        for name in ("observation_space", "action_space"):
            own = getattr(envs, f"single_{name}")
            single = getattr(env, name)
            require(
                own == single,
                f"--vectorization=native: the vector class of {recipe.env} has the {name} "
                f"{in_words(own)}, its environment {in_words(single)}. Use --vectorization=serial "
                "or async.",
            )
        envs.reset()
        for _ in range(_TRIED_STEPS):
            envs.step(np.zeros(num_envs, np.int32))


def _try_functional(env_id: str, env: Any) -> None:
    """Raises `UserError` where a JAX-native environment cannot be stepped or breaks promises."""

    def first_step(key: jax.Array) -> Any:
        state = functional.initial(env, key)
        return functional.step(env, _NO_LIMIT, state, jnp.int32(0), key)[1]

    try:
        outcome = jax.eval_shape(first_step, jax.random.key(0))
    except Exception as error:
        raise UserError(f"--env={env_id} cannot be stepped in JAX: {in_one_line(error)}") from error
    space = env.observation_space
    seen = outcome.s_t
    castable = seen.dtype.kind in "biu" or space.dtype.kind == "f"
    require(
        seen.shape == space.shape and castable,
        f"--env={env_id}: observation_space is {in_words(space)}, but an observation has shape "
        f"{seen.shape} and dtype {seen.dtype}. Mend the environment.",
    )


def stored_dtype(dtype: np.dtype) -> jnp.dtype:
    """How observations of a dtype are kept in replay: bytes as they are, all else as float32."""
    return jnp.uint8 if dtype == np.uint8 else jnp.float32
