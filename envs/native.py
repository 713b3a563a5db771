"""The JAX-native environments, registered with Gymnasium: importing this module is enough.

`gymnasium.make("jax/CartPole-v1")` and `gymnasium.make_vec` then find them, as they find
`missing_bits.envs.native:jax/CartPole-v1` without the import. The games themselves, and JAX, are
imported when one is made.

Classic control has the time limits of Gymnasium's versions. MinAtar has none, but for Freeway,
which ends by itself after 2,501 steps; here its episodes are truncated after 10,000 steps, which
few policies reach.
"""

import gymnasium as gym

_MINATAR_STEPS = 10_000
_GAMES = (
    ("CartPole-v1", "cartpole:CartPole", 500),
    ("Acrobot-v1", "acrobot:Acrobot", 500),
    ("MountainCar-v0", "mountain_car:MountainCar", 200),
    ("Breakout-v1", "breakout:Breakout", _MINATAR_STEPS),
    ("Asterix-v1", "asterix:Asterix", _MINATAR_STEPS),
    ("SpaceInvaders-v1", "space_invaders:SpaceInvaders", _MINATAR_STEPS),
    ("Freeway-v1", "freeway:Freeway", _MINATAR_STEPS),
    ("Seaquest-v1", "seaquest:Seaquest", _MINATAR_STEPS),
)
"""Name, file and class in `envs/games`, and steps after which an episode is truncated."""

for _name, _game, _limit in _GAMES:
    gym.register(
        f"jax/{_name}",
        entry_point="missing_bits.envs.games.adapters:NativeEnv",
        vector_entry_point="missing_bits.envs.games.adapters:NativeVectorEnv",
        kwargs={"game": _game},
        max_episode_steps=_limit,
        disable_env_checker=True,  # it wants NumPy's arrays, and these are JAX's
    )
