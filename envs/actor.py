"""The source of a host experiment: makes steps in Gymnasium environments between updates."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from gymnasium.vector import AutoresetMode

from missing_bits.envs.gymnasium_envs import Recipe, close, make_vector
from missing_bits.envs.stepper import Stepper
from missing_bits.envs.steps import EPISODE_RETURN, Acted, Steps, says_something
from missing_bits.numeric import ceil_div

HostAct = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Acted]
"""(observations [S, E, ...], resets [S, E], due [S], counts [S, 2]) -> Acted, leaves [S, E, ...].

Resets tell which observations begin an episode, counts how many environment steps and vector steps
a seed has made. Only the seeds that are due take this vector step: the memory of the others must
stay. The loop keeps the memory; `Acted.memory` is not looked at.
"""


class Actor:
    """Yields the steps that each update waits for.

    Those of update i are taken until (i + 1) times `period` environment steps have been made.
    Several seeds act side by side, each with its own environments; a seed's steps do not depend on
    the others. Shapes: S seeds, E environments of each, V vector steps in a batch.

    Args:
      recipe: what an environment is made of.
      num_envs: E.
      seeds: S integers.
      period: environment steps of each seed per update.
      vectorization: how environments are stepped: "serial", "async" or "native".
      at_close: what is to be closed with them.

    Attributes:
      inner_steps: updates that one vector step suffices for, at most.
    """

    def __init__(
        self,
        recipe: Recipe,
        num_envs: int,
        seeds: Sequence[int],
        period: int,
        vectorization: str,
        at_close: Callable[[], None] | None = None,
    ) -> None:
        self._steppers = [
            Stepper(make_vector(recipe, num_envs, seed, "train", vectorization)) for seed in seeds
        ]
        self._env_id = recipe.env
        self._at_close = at_close
        self._num_envs = num_envs
        self._period = period
        self.inner_steps = ceil_div(num_envs, period)
        self._reproduces = vectorization != "native"
        self._most = ceil_div(period, num_envs)  # V: vector steps an update waits for at most
        if self._steppers[0].mode is AutoresetMode.NEXT_STEP:
            self._most *= 2  # every second one may do no more than reset
        self._env_steps = [0] * len(seeds)  # valid steps of a seed, all its environments together
        self._vector_steps = [0] * len(seeds)
        self._open_return = np.zeros((len(seeds), num_envs))
        self._ended_return = np.zeros(len(seeds))  # sum over the episodes since the last `metrics`
        self._ended_episodes = np.zeros(len(seeds), np.int32)
        self._extras: Any = None  # zeros, leaves [...]; known once the agent has answered

    def next(self, act: HostAct, update: int) -> Steps:
        """Acts until the steps for update `update` (from 0) have been made.

        Args:
          act: answers to observations.
          update: the index of the update.

        Returns:
          Steps with leaves [S, E, V, ...], V the same at every call; rows not needed are not valid.
        """
        target = (update + 1) * self._period
        made = [0] * len(self._steppers)
        batch = None
        while any(due := [env_steps < target for env_steps in self._env_steps]):
            acted = self._ask(act, due)
            if batch is None:
                batch = self._no_steps()
            for s, is_due in enumerate(due):
                if is_due:
                    self._step(s, acted, batch, made[s])
                    made[s] += 1
        if batch is None:
            if self._extras is None:  # restored where no step is due: what would the agent say?
                self._ask(act, due)
            batch = self._no_steps()
        self._count_returns(batch)
        return batch

    def waits(self, update: int) -> bool:
        """Whether steps for update `update` (from 0) are yet to be made."""
        return min(self._env_steps) < (update + 1) * self._period

    def metrics(self) -> list[dict[str, float]]:
        """For each seed, the mean return of episodes that ended since the last call, if any did."""
        means = [
            {EPISODE_RETURN: float(total / episodes)} if episodes else {}
            for total, episodes in zip(self._ended_return, self._ended_episodes, strict=True)
        ]
        self._ended_return[:] = 0.0
        self._ended_episodes[:] = 0
        return means

    def save(self) -> dict[str, np.ndarray]:
        """What `restore` needs: counters, returns, and every open episode's number and actions."""
        progress = [own for stepper in self._steppers for own in self._progress(stepper)]
        logs = [[*actions, -1] for _, actions in progress]  # -1 ends a log
        return {
            "env_steps": np.array(self._env_steps, np.int32),
            "vector_steps": np.array(self._vector_steps, np.int32),
            "open_return": self._open_return.copy(),
            "ended_return": self._ended_return.copy(),
            "ended_episodes": self._ended_episodes.copy(),
            "observation": _join_seeds([stepper.observation for stepper in self._steppers]),
            "episode": np.array([episode for episode, _ in progress], np.int32),
            "actions": np.array([action for log in logs for action in log], np.int32),
            "lengths": np.array([len(log) for log in logs], np.int32),
        }

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Brings everything to where `save` was called; warns where an environment does not."""
        self._env_steps = saved["env_steps"].tolist()
        self._vector_steps = saved["vector_steps"].tolist()
        self._open_return = saved["open_return"].copy()
        self._ended_return = saved["ended_return"].copy()
        self._ended_episodes = saved["ended_episodes"].copy()
        ends = np.cumsum(saved["lengths"])
        logs = [log[:-1].tolist() for log in np.split(saved["actions"], ends[:-1])]
        for s, stepper in enumerate(self._steppers):
            mine = slice(s * self._num_envs, (s + 1) * self._num_envs)
            if self._reproduces:
                stepper.envs.call("resume_at", saved["episode"][mine].tolist(), logs[mine])
            stepper.start()
            stepper.resets = np.array([not actions for _, actions in self._progress(stepper)])
            self._open_return[s, stepper.resets] = 0.0  # it is, but where an episode was lost
            astray = [
                i
                for i in range(self._num_envs)
                if not np.array_equal(stepper.observation[i], saved["observation"][s, i])
            ]
            if astray:
                warnings.warn(
                    f"{self._env_id}: environments {astray} did not come back to where the run "
                    "stopped (their episodes do not follow from seed and actions alone). The run "
                    "goes on, but is not identical to an uninterrupted one.",
                    stacklevel=2,
                )

    def close(self) -> None:
        """Closes the environments, and what else was to be closed with them."""
        for stepper in self._steppers:
            close(stepper.envs, self._env_id)
        if self._at_close is not None:
            self._at_close()

    def _progress(self, stepper: Stepper) -> list[tuple[int, list[int]]]:
        """Every environment's open episode and the actions made in it; nothing if unknown."""
        if self._reproduces:
            return list(stepper.envs.call("progress"))
        return [(0, [])] * self._num_envs

    def _ask(self, act: HostAct, due: list[bool]) -> Acted:
        """The agent's answer to what all seeds see; leaves [S, E, ...]."""
        observations = _join_seeds([stepper.observation for stepper in self._steppers])
        resets = _join_seeds([stepper.resets for stepper in self._steppers])
        counts = np.array([self._env_steps, self._vector_steps], np.int32).T
        acted = act(observations, resets, np.array(due), counts)
        if self._extras is None:
            self._extras = jax.tree.map(lambda x: np.zeros_like(x[0, 0]), acted.extras)
        return acted

    def _no_steps(self) -> Steps:
        """A batch [S, E, V, ...] before any step has been made."""
        shape = (len(self._steppers), self._num_envs, self._most)
        seen = self._steppers[0].observation
        observations = (*shape, *seen.shape[1:])
        extras = self._extras
        if says_something(extras):
            extras = jax.tree.map(lambda x: np.zeros((*shape, *x.shape), x.dtype), extras)
        return Steps(
            s_tm1=np.zeros(observations, seen.dtype),
            a_tm1=np.zeros(shape, np.int32),
            r_t=np.zeros(shape),
            terminated=np.zeros(shape, bool),
            truncated=np.zeros(shape, bool),
            s_t=np.zeros(observations, seen.dtype),
            valid=np.zeros(shape, bool),
            extras=extras,
        )

    def _step(self, s: int, acted: Acted, batch: Steps, v: int) -> None:
        """Makes one vector step of one seed, and writes it down as step `v` of its batch."""
        stepper = self._steppers[s]
        action = acted.action[s]
        batch.s_tm1[s, :, v] = stepper.observation
        outcome, valid = stepper.step(action)
        batch.a_tm1[s, :, v] = action
        batch.r_t[s, :, v] = outcome.r_t
        batch.terminated[s, :, v] = outcome.terminated
        batch.truncated[s, :, v] = outcome.truncated
        batch.s_t[s, :, v] = outcome.s_t
        batch.valid[s, :, v] = valid
        if says_something(acted.extras):
            places = jax.tree.leaves(batch.extras)
            for place, said in zip(places, jax.tree.leaves(acted.extras), strict=True):
                place[s, :, v] = said[s]
        self._env_steps[s] += int(np.count_nonzero(valid))
        self._vector_steps[s] += 1

    def _count_returns(self, batch: Steps) -> None:
        """Adds the rewards of a batch [S, E, V, ...] to the returns of its episodes."""
        reward = np.where(batch.valid, batch.r_t, 0.0)
        done = (batch.terminated | batch.truncated) & batch.valid
        some_ended = np.count_nonzero(done) > 0
        for v in range(self._most):
            self._open_return += reward[:, :, v]
            if some_ended:
                ended = done[:, :, v]
                self._ended_return += np.where(ended, self._open_return, 0.0).sum(axis=1)
                self._ended_episodes += np.count_nonzero(ended, axis=1).astype(np.int32)
                self._open_return[ended] = 0.0


def _join_seeds(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """[S, ...] of one array for each seed."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
