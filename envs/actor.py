"""The source of a host experiment: acts in Gymnasium environments between updates and hands over the steps."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from gymnasium.vector import AutoresetMode

from missing_bits.envs.gymnasium_envs import Stepper, make_vector
from missing_bits.envs.steps import Steps

Act = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Actor:
    """Yields, for update i, the steps taken until i times `period` environment steps have been made.

    Several seeds (S) act side by side, each with its own environments; a seed's steps do not depend on the others.
    """

    inner_steps = 1  # acting needs the parameters of the update before

    def __init__(
        self, env_id: str, num_envs: int, seeds: Sequence[int], period: int, vectorization: str
    ) -> None:
        self._steppers = [
            Stepper(make_vector(env_id, num_envs, seed, "train", vectorization)) for seed in seeds
        ]
        self._period, self._env_id = period, env_id
        self._reproduces = vectorization != "native"
        # Vector steps an update waits for at most; with NEXT_STEP every second one may do no more than reset.
        self._rows = -(-period // num_envs) * (
            2 if self._steppers[0].mode is AutoresetMode.NEXT_STEP else 1
        )
        self._env_steps = [0] * len(seeds)  # valid steps of a seed, all its environments together
        self._vector_steps = [0] * len(seeds)
        self._open_return = np.zeros((len(seeds), num_envs))
        self._last_return = np.full((len(seeds), num_envs), np.nan)
        observation, no = np.zeros_like(self._steppers[0].observation), np.zeros(num_envs, bool)
        self._no_step = Steps(
            observation, no.astype(np.int32), no.astype(np.float64), no, no, observation, no
        )

    def next(self, act: Act, update: int) -> Steps:
        """Acts until the steps for update `update` (from 0) are due.

        Args:
          act: maps observations [S, E, ...] and counts of environment and vector steps made [S, 2] to actions
            [S, E].
          update: the index of the update.

        Returns:
          Steps with leaves [S, E, V, ...], V the same at every call; rows not needed are not valid.
        """
        target = (update + 1) * self._period
        made: list[list[Steps]] = [[] for _ in self._steppers]
        while due := [s for s, env_steps in enumerate(self._env_steps) if env_steps < target]:
            observations = [stepper.observation for stepper in self._steppers]
            counts = np.array([self._env_steps, self._vector_steps], np.int32)
            actions = act(_stack(observations), counts.T)
            for s in due:
                steps = Steps(observations[s], actions[s], *self._steppers[s].step(actions[s]))
                made[s].append(steps)
                self._env_steps[s] += int(np.count_nonzero(steps.valid))
                self._vector_steps[s] += 1
        batches = [self._batch(s, rows) for s, rows in enumerate(made)]
        return Steps(*map(_stack, zip(*batches, strict=True)))

    def metrics(self) -> list[dict[str, float]]:
        """For each seed, the mean over environments of the last finished episode's return, once there is one."""
        finished = [returns[~np.isnan(returns)] for returns in self._last_return]
        return [{"train/episode_return": float(r.mean())} if r.size else {} for r in finished]

    def save(self) -> dict[str, np.ndarray]:
        """What `restore` needs: counters, and every open episode's number and actions."""
        progress = [e for stepper in self._steppers for e in self._progress(stepper)]
        return {
            "env_steps": np.array(self._env_steps, np.int32),
            "vector_steps": np.array(self._vector_steps, np.int32),
            "open_return": self._open_return.copy(),
            "last_return": self._last_return.copy(),
            "observation": _stack([stepper.observation for stepper in self._steppers]),
            "episode": np.array([episode for episode, _ in progress], np.int32),
            "actions": np.array(
                [a for _, actions in progress for a in [*actions, -1]], np.int32
            ),  # -1 ends a log
            "lengths": np.array([len(actions) + 1 for _, actions in progress], np.int32),
        }

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Brings counters and environments to where `save` was called; warns if an environment does not reproduce."""
        self._env_steps, self._vector_steps = (
            saved["env_steps"].tolist(),
            saved["vector_steps"].tolist(),
        )
        self._open_return, self._last_return = (
            saved["open_return"].copy(),
            saved["last_return"].copy(),
        )
        num_envs = self._open_return.shape[1]
        logs = [
            log[:-1].tolist()
            for log in np.split(saved["actions"], np.cumsum(saved["lengths"])[:-1])
        ]
        for s, stepper in enumerate(self._steppers):
            mine = slice(s * num_envs, (s + 1) * num_envs)
            if self._reproduces:
                stepper.envs.call("resume_at", saved["episode"][mine].tolist(), logs[mine])
            stepper.observation = np.asarray(stepper.envs.reset()[0])
            astray = [
                i
                for i in range(num_envs)
                if not np.array_equal(stepper.observation[i], saved["observation"][s, i])
            ]
            if astray:
                warnings.warn(
                    f"{self._env_id}: environments {astray} did not come back to where the run stopped (their "
                    "episodes do not follow from seed and actions alone). The run goes on, but is not identical to "
                    "an uninterrupted one.",
                    stacklevel=2,
                )

    def close(self) -> None:
        """Closes the environments."""
        for stepper in self._steppers:
            stepper.envs.close()

    def _progress(self, stepper: Stepper) -> list[tuple[int, list[int]]]:
        return (
            list(stepper.envs.call("progress"))
            if self._reproduces
            else [(0, [])] * stepper.envs.num_envs
        )

    def _batch(self, s: int, rows: list[Steps]) -> Steps:
        """One seed's vector steps since the last update as Steps [E, V, ...]; keeps its episodes' returns."""
        rows = rows + [self._no_step] * (self._rows - len(rows))
        steps = Steps(*(np.array(field).swapaxes(0, 1) for field in zip(*rows, strict=True)))
        reward, done = (
            np.where(steps.valid, steps.r_t, 0.0),
            (steps.terminated | steps.truncated) & steps.valid,
        )
        if not done.any():
            self._open_return[s] += reward.sum(axis=1)
            return steps
        for row in range(self._rows):
            self._open_return[s] += reward[:, row]
            ended = done[:, row]
            self._last_return[s, ended] = self._open_return[s, ended]
            self._open_return[s, ended] = 0.0
        return steps


def _stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
