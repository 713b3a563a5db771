"""An environment of pictures, and wrappers of users, as `module:name` and `module:function`.

Worker processes import this module.
"""

import gymnasium as gym
import numpy as np

HERE = __name__
PICTURE = f"{HERE}:Picture-v0"
SHAPE = (4, 6, 3)


class Picture(gym.Env):
    """Pictures that name their step, in one buffer for all of them; an episode has five steps."""

    observation_space = gym.spaces.Box(0, 255, SHAPE, np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self):
        self.buffer = np.zeros(SHAPE, np.uint8)

    def reset(self, *, seed=None, options=None):
        self.made = 0
        return self.draw(), {}

    def step(self, action):
        self.made += 1
        return self.draw(), 1.0, self.made == 5, False, {}

    def draw(self):
        self.buffer[:] = picture(self.made)
        return self.buffer


gym.register("Picture-v0", Picture)


def picture(step):
    """Return the picture of a step: every pixel and channel another."""
    return (np.arange(np.prod(SHAPE)) + 40 * step).reshape(SHAPE).astype(np.uint8)


# A user's wrappers: one that is right, and what can go wrong.
class Doubled(gym.ObservationWrapper):
    """Observations of twice the size."""

    def __init__(self, env):
        super().__init__(env)
        space = env.observation_space
        self.observation_space = gym.spaces.Box(2 * space.low, 2 * space.high, dtype=space.dtype)

    def observation(self, observation):
        return 2 * observation


class Scaled(gym.ObservationWrapper):
    """Bytes as fractions, in a space of bytes still."""

    def observation(self, observation):
        return observation / 255


class Squeezed(gym.ObservationWrapper):
    """Observations without axes of size 1."""

    def observation(self, observation):
        return np.squeeze(observation)


class Liar(gym.ObservationWrapper):
    """Observations of another shape than is promised."""

    def observation(self, observation):
        return observation[:2]


class Stumbling(gym.ObservationWrapper):
    """No observations at all."""

    def observation(self, observation):
        raise RuntimeError("stumbled\nand fell")


def failing(env):
    raise RuntimeError("failed\nin two lines")


def no_environment(env):
    return "an environment"


def needs_more(env, size):
    return env


number = 5
