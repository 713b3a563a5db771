"""A toy agent with memory for the counting MDP: it counts its steps since the last reset.

It acts as `counting.policy`, but takes the step from its memory instead of from the observation,
and says beside its action what it counted. Where memory, resets or extras go astray, it shows.
"""

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits.envs.steps import Acted, Player
from missing_bits.tests.envs import counting


def memory(num_envs):
    """Return the memory before the first step; a reset must overwrite it."""
    return {"since_reset": jnp.full(num_envs, -100, jnp.int32)}


def answer(memory, observation, reset):
    """Return what one seed's agent does, [E], and what it says beside, {[E], [E, 2]}."""
    since_reset = jnp.where(reset, 0, memory["since_reset"] + 1)
    seen = observation.at[..., 2].set(since_reset.astype(jnp.float32))
    extras = {"since_reset": since_reset, "code": observation[..., 2:]}
    return Acted(counting.policy(seen), {"since_reset": since_reset}, extras)


_answer_seeds = jax.jit(jax.vmap(answer))


class Loop:
    """The loop's part on the host: it keeps the memory of all seeds, and moves it where due."""

    def __init__(self, num_seeds, num_envs):
        self.memory = np.full((num_seeds, num_envs), -100, np.int32)
        self.asked = 0

    def act(self, observation, resets, due, counts):
        """Answer as the actor asks."""
        acted = jax.tree.map(
            np.asarray, _answer_seeds({"since_reset": self.memory}, observation, resets)
        )
        self.memory = np.where(due[:, None], acted.memory["since_reset"], self.memory)
        self.asked += 1
        return acted._replace(memory=())


def _play(learned, memory, observation, reset):
    acted = answer(memory, jnp.asarray(observation), reset)
    return acted.action, acted.memory


PLAYER = Player(memory, jax.jit(_play))
