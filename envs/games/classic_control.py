"""What CartPole, Acrobot and MountainCar share: Gymnasium's own versions draw them."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.experimental.functional import FuncEnv


class ClassicControl(FuncEnv):
    """A functional environment whose state is that of one of Gymnasium's environments."""

    drawn_by: ClassVar[str]
    """The id of the environment that draws this one's states."""

    def render_init(self, params: Any = None) -> gym.Env:
        """The environment that draws."""
        return gym.make(self.drawn_by, render_mode="rgb_array").unwrapped

    def render_image(
        self, state: Any, render_state: gym.Env, params: Any = None
    ) -> tuple[gym.Env, np.ndarray]:
        """The environment that draws, and an image [height, width, 3] of a state."""
        render_state.state = np.array(state, np.float64)
        return render_state, render_state.render()

    def render_close(self, render_state: gym.Env, params: Any = None) -> None:
        """Close the environment that draws."""
        render_state.close()
