"""Steps a Gymnasium vector environment, whatever it does at the end of an episode."""

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from missing_bits.envs.steps import Outcome


class Stepper:
    """One view of a vector environment for all autoreset modes: every step with its true successor.

    NEXT_STEP environments answer the action after an episode's end with a reset: those rows are not
    steps and come back as not valid. SAME_STEP ones hide the final observation in their info;
    DISABLED ones are reset here.
    """

    observation: np.ndarray
    """What the next actions are chosen on, [E, ...]."""
    resets: np.ndarray
    """Which of `observation` begin an episode, [E] bool."""

    def __init__(self, envs: VectorEnv) -> None:
        self.envs = envs
        self.mode = AutoresetMode(envs.metadata["autoreset_mode"])
        self._all = np.ones(envs.num_envs, bool)
        self._none = np.zeros(envs.num_envs, bool)
        self.start()

    def start(self) -> None:
        """Begins an episode in every environment."""
        self.observation = np.asarray(self.envs.reset()[0])
        self.resets = self._all
        self._resetting = self._none

    def step(self, actions: np.ndarray) -> tuple[Outcome, np.ndarray]:
        """Steps all environments and moves `observation` to what the next actions are chosen on.

        Args:
          actions: [E] integers.

        Returns:
          What came of them, leaves [E, ...], and which of them were steps: [E] bool.
        """
        observation, rewards, terminated, truncated, info = self.envs.step(actions)
        observation = np.asarray(observation)
        successor = observation
        terminated = np.asarray(terminated)
        truncated = np.asarray(truncated)
        done = terminated | truncated
        valid = self._all
        resets = done
        if self.mode is AutoresetMode.SAME_STEP:
            if "final_obs" in info:
                successor = observation.copy()
                for i in np.flatnonzero(done):
                    successor[i] = info["final_obs"][i]
        elif self.mode is AutoresetMode.NEXT_STEP:
            resets = self._resetting
            valid = ~resets
            self._resetting = done
        elif done.any():
            observation = np.asarray(self.envs.reset(options={"reset_mask": done})[0])
        self.observation = observation
        self.resets = resets
        return Outcome(np.asarray(rewards), terminated, truncated, successor), valid
