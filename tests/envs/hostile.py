"""Environments that break a rule or stretch one, each in one way: what a user's code does.

Ids are `missing_bits.tests.envs.hostile:hostile/Name-v0`: worker processes can make them too.
"""

import os
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.experimental.functional import FuncEnv
from gymnasium.vector import AutoresetMode, VectorEnv

LENGTH = 10  # steps of an episode
LATE = 7  # the step at which what goes wrong in mid-run goes wrong
UNIT = spaces.Box(-1, 1, (3,), np.float32)
LARGE = 2**40  # more than 32 bits hold


class Sound(gym.Env):
    """Nothing is wrong; observations are full of the number of the step."""

    observation_space = spaces.Box(0, 100, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.made = 0
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.made += 1
        return self.observe(), self.earned(), self.made == LENGTH, False, {}

    def observe(self) -> Any:
        return np.full(self.observation_space.shape, self.made, self.observation_space.dtype)

    def earned(self) -> Any:
        return 1.0


# Refused before training.


class NoLicense(Sound):
    def __init__(self):
        raise RuntimeError("no license\nfile found")


class NoLibrary(Sound):
    def __init__(self):
        raise ImportError("libGL.so.1: cannot open shared object file")


class NoPackage(Sound):
    def __init__(self):
        raise gym.error.DependencyNotInstalled("pip install simulator")


class NoModule(Sound):
    def __init__(self):
        raise ModuleNotFoundError("No module named 'simulator'", name="simulator")


class Exits(Sound):
    def __init__(self):
        raise SystemExit("usage: simulator --map=FILE")


class NoSpace(Sound):
    observation_space = None


class NoReset(Sound):
    def reset(self, *, seed=None, options=None):
        raise ValueError("reset failed")


class OldApi(Sound):
    """Of Gym before 0.26."""

    def reset(self):
        self.made = 0
        return self.observe()

    def step(self, action):
        self.made += 1
        return self.observe(), 1.0, self.made == LENGTH, {}


class OldReset(Sound):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class OldStep(Sound):
    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, info


class NoOptions(Sound):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class Scalars(Sound):
    def observe(self):
        return np.float32(0.5)


class OneAxisMore(Sound):
    def observe(self):
        return super().observe()[None]


class OneFeatureMore(Sound):
    def observe(self):
        return np.zeros(4, np.float32)


class Fractions(Sound):
    """A frequent mistake: the space says bytes, observations are fractions."""

    observation_space = spaces.Box(0, 255, (3,), np.uint8)

    def observe(self):
        return np.full(3, 0.5, np.float32)


class NotBytes(Sound):
    """Whole numbers that the declared dtype does not hold."""

    observation_space = spaces.Box(0, 255, (3,), np.uint8)

    def observe(self):
        return np.array([0, 128, 300])


class NoReward(Sound):
    def earned(self):
        return None


class TwoRewards(Sound):
    def earned(self):
        return np.ones(2)


class NoNumber(Sound):
    def earned(self):
        return float("nan")


class ActionsChange(Sound):
    """Every episode has one more action."""

    def __init__(self):
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.action_space = spaces.Discrete(self.action_space.n + 1)
        return super().reset(seed=seed)


class ObservationsChange(Sound):
    def step(self, action):
        self.observation_space = spaces.Box(0, 1, (3,), np.float32)
        return super().step(action)


class ChannelsFirst(Sound):
    observation_space = spaces.Box(0, 255, (3, 40, 48), np.uint8)


class Gray(Sound):
    observation_space = spaces.Box(0, 255, (40, 48), np.uint8)


class Stack(Sound):
    observation_space = spaces.Box(0, 255, (4, 40, 48, 3), np.uint8)


# Trained on, as they are or converted.


class Outside(Sound):
    """Observations leave the declared bounds."""

    observation_space = UNIT


class Unseeded(Sound):
    """Draws from the system's entropy where a reset gives no seed."""

    def reset(self, *, seed=None, options=None):
        self.rng = np.random.default_rng(seed)
        return super().reset(seed=seed)

    def observe(self):
        return self.rng.uniform(0, 100, 3).astype(np.float32)


class NotSeeded(Sound):
    """Draws from elsewhere, whatever the seed; what is seen is always the same."""

    def earned(self):
        return np.random.default_rng().random()


class Seeded(Sound):
    """Draws as it should; one array for all observations."""

    def __init__(self):
        self.buffer = np.zeros(3, np.float32)

    def observe(self):
        self.buffer[:] = self.np_random.uniform(0, 100, 3)
        return self.buffer

    def earned(self):
        return self.np_random.random()


class Lists(Sound):
    def observe(self):
        return [float(self.made)] * 3


class Doubles(Sound):
    """Another dtype than the space says, which holds the same numbers."""

    def observe(self):
        return np.full(3, self.made)


class Wide(Sound):
    observation_space = spaces.Box(0, 2 * LARGE, (3,), np.int64)

    def observe(self):
        return np.full(3, LARGE + self.made * 2**30)


class Said(Sound):
    """Says what cannot be sent by a process, and nothing at its start."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], None

    def step(self, action):
        return (*super().step(action)[:4], {"map": lambda x: x})


class Buffer(Sound):
    """One array for all observations."""

    def __init__(self):
        self.buffer = np.zeros(3, np.float32)

    def observe(self):
        self.buffer[:] = self.made
        return self.buffer


class Negative(Sound):
    action_space = spaces.Discrete(3, start=-1)


DTYPES = {
    "Flags": (np.bool_, 1),
    "Small": (np.int8, 100),
    "Integers": (np.int32, 100),
    "Halves": (np.float16, 100),
    "Precise": (np.float64, 100),
}
REWARDS = {
    "ArrayReward": np.ones(1),
    "FlagReward": True,
    "WholeReward": 1,
    "SingleReward": np.float32(1),
}


def _typed(dtype, high):
    env = Sound()
    env.observation_space = spaces.Box(0, high, (3,), dtype)
    return env


def _rewarded(reward):
    env = Sound()
    env.earned = lambda: reward
    return env


# Wrong in mid-run.


class Raises(Sound):
    def step(self, action):
        if self.made == LATE:
            raise ValueError("the simulator lost its\nconnection, 100% of it")
        return super().step(action)


class NotFinite(Sound):
    def observe(self):
        observation = super().observe()
        if self.made == LATE:
            observation[1] = np.nan
        return observation


class LateReward(Sound):
    def earned(self):
        return np.inf if self.made == LATE else 1.0


class LateShape(Sound):
    def observe(self):
        return super().observe()[: 2 if self.made == LATE else 3]


class Dies(Sound):
    """Its process is gone, as if the kernel had killed it; only a worker's is."""

    parent = os.getpid()

    def step(self, action):
        if self.made == LATE:
            os._exit(9)
        return super().step(action)


class Stubborn(Sound):
    def close(self):
        raise RuntimeError("it will not close")


# Drawn wrongly.


class Rendered(Sound):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode


class NoDisplay(Rendered):
    def render(self):
        raise RuntimeError("no display")


class NoPicture(Rendered):
    def render(self):
        return None


class FloatPicture(Rendered):
    def render(self):
        return np.zeros((20, 30, 3), np.float32)


class GrayPicture(Rendered):
    def render(self):
        return np.full((20, 30), 8 * self.made, np.uint8)


class NoRenderMode(Sound):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self):
        """Takes no `render_mode`."""


# Seen: the right action of an episode of one step is written in the picture.


class Signs(gym.Env):
    """All pixels are 0 or 1; what a sighted network earns is 1, a blind one 0.5."""

    observation_space = spaces.Box(0, 1, (4, 4, 1), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.right = int(self.np_random.integers(2))
        return self.observe(), {}

    def step(self, action):
        return self.observe(), float(action == self.right), True, False, {}

    def observe(self):
        return np.full((4, 4, 1), self.right, np.uint8)


# The environment's own vector class.


class Vector(VectorEnv):
    """Counts steps; never ends."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    single_observation_space = UNIT
    single_action_space = spaces.Discrete(2, start=5)

    def __init__(self, num_envs, max_episode_steps=None):
        self.num_envs = num_envs
        self.observation_space = spaces.Box(-1, 1, (num_envs, 3), np.float32)
        self.action_space = spaces.MultiDiscrete([2] * num_envs)
        self.made = 0

    def reset(self, *, seed=None, options=None):
        self.made = 0
        return self.observe(), {}

    def step(self, actions):
        assert set(actions.tolist()) <= {5, 6}
        self.made += 1
        none = np.zeros(self.num_envs, bool)
        return self.observe(), self.earned(), none, none, {}

    def observe(self):
        return np.zeros((self.num_envs, 3), np.float32)

    def earned(self):
        return np.ones(self.num_envs)


class VectorRaises(Vector):
    def step(self, actions):
        if self.made == LATE:
            raise ValueError("lost its\nconnection")
        return super().step(actions)


class VectorReward(Vector):
    def earned(self):
        return np.full(self.num_envs, np.nan if self.made == LATE else 1.0)


class VectorNotFinite(Vector):
    def observe(self):
        return super().observe() + (np.nan if self.made == LATE else 0)


class VectorEnds(Vector):
    def step(self, actions):
        observation, rewards, *_ = super().step(actions)
        return observation, rewards, False, False, {}


class VectorShape(Vector):
    def observe(self):
        return np.zeros((self.num_envs, 4), np.float32)


class VectorSpaces(Vector):
    single_action_space = spaces.Discrete(3)


class One(Sound):
    """What the vector classes hold several of."""

    observation_space = UNIT
    action_space = spaces.Discrete(2, start=5)

    def observe(self):
        return np.zeros(3, np.float32)


VECTORS = (
    Vector,
    VectorRaises,
    VectorReward,
    VectorNotFinite,
    VectorEnds,
    VectorShape,
    VectorSpaces,
)


# JAX-native ones.


class Functional(FuncEnv):
    """Counts steps; never ends."""

    observation_space = spaces.Box(0, 100, (3,), np.float32)
    action_space = spaces.Discrete(3, start=-1)

    def initial(self, rng, params=None):
        import jax.numpy as jnp  # not in worker processes

        return jnp.float32(0)

    def transition(self, state, action, rng, params=None):
        return state + 1

    def observation(self, state, rng, params=None):
        return state * np.ones(3, np.float32)

    def reward(self, state, action, next_state, rng, params=None):
        import jax.numpy as jnp

        return jnp.float32(action)

    def terminal(self, state, rng, params=None):
        return state < 0


class FunctionalArray(Functional):
    def reward(self, state, action, next_state, rng, params=None):
        return super().reward(state, action, next_state, rng)[None]


class FunctionalReward(Functional):
    def reward(self, state, action, next_state, rng, params=None):
        return super().reward(state, action, next_state, rng) / (state != LATE)


class FunctionalShape(Functional):
    def observation(self, state, rng, params=None):
        return state * np.ones(4, np.float32)


class FunctionalFractions(Functional):
    observation_space = spaces.Box(0, 255, (3,), np.uint8)


class FunctionalRaises(Functional):
    def reward(self, state, action, next_state, rng, params=None):
        return 1.0 if state > 2 else 0.0  # JAX cannot know


def _functional(kind, render_mode=None):
    from gymnasium.envs.functional_jax_env import FunctionalJaxEnv

    return FunctionalJaxEnv(kind(), {"render_modes": [], "jax": True})


class Doubled(gym.RewardWrapper, gym.utils.RecordConstructorArgs):
    """Stands around an environment from its registration on."""

    def __init__(self, env):
        gym.utils.RecordConstructorArgs.__init__(self)
        gym.RewardWrapper.__init__(self, env)

    def reward(self, reward):
        return 2 * reward


ENTRY = f"{__name__}:Doubled"
DOUBLED = (gym.envs.registration.WrapperSpec("Doubled", ENTRY, {}),)

for _kind in [kind for kind in vars().copy().values() if isinstance(kind, type)]:
    if issubclass(_kind, Sound):
        gym.register(f"hostile/{_kind.__name__}-v0", _kind)
    if issubclass(_kind, FuncEnv) and _kind is not FuncEnv:
        gym.register(f"hostile/{_kind.__name__}-v0", _functional, kwargs={"kind": _kind})
for _name, (_dtype, _high) in DTYPES.items():
    gym.register(f"hostile/{_name}-v0", _typed, kwargs={"dtype": _dtype, "high": _high})
for _name, _reward in REWARDS.items():
    gym.register(f"hostile/{_name}-v0", _rewarded, kwargs={"reward": _reward})
gym.register("hostile/Signs-v0", Signs)
for _vector in VECTORS:
    gym.register(f"hostile/{_vector.__name__}-v0", One, vector_entry_point=_vector)
gym.register(
    "hostile/WrappedVector-v0", One, vector_entry_point=Vector, additional_wrappers=DOUBLED
)
gym.register(
    "hostile/WrappedFunctional-v0",
    _functional,
    kwargs={"kind": Functional},
    additional_wrappers=DOUBLED,
    max_episode_steps=LENGTH,
)
