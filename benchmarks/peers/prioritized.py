"""Time the prioritized replays of flashbax and of numpy; print updates per second as JSON.

Runs in the peers' virtual environment (requirements-gymnax.txt beside this file);
`replay_speed.py` starts it. An update inserts a chunk into one lane, draws a batch by priority with
its transitions, and gives what was drawn new priorities.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np


class SumTree:
    """A binary tree of sums over priorities, in numpy, a level at a time for whole batches."""

    def __init__(self, items: int):
        self.depth = (items - 1).bit_length()
        self.leaves = 2**self.depth
        self.sums = np.zeros(2 * self.leaves, np.float64)

    def set(self, place: np.ndarray, priority: np.ndarray) -> None:
        """Writes priorities and sums their ancestors anew."""
        node = place + self.leaves
        self.sums[node] = priority
        for _ in range(self.depth):
            node = np.unique(node >> 1)
            self.sums[node] = self.sums[2 * node] + self.sums[2 * node + 1]

    def draw(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        """Places, each with a probability proportional to its priority."""
        left = rng.random(batch) * self.sums[1]
        node = np.ones(batch, np.int64)
        for _ in range(self.depth):
            node *= 2
            below = self.sums[node]
            right = left >= below
            left -= below * right
            node += right
        return node - self.leaves


def numpy_updates(items: int, chunk: int, batch: int) -> Callable[[int], None]:
    """A replay of arrays beside a sum-tree; the function makes so many updates."""
    rng = np.random.default_rng(0)
    tree = SumTree(items)
    observation = np.zeros((items, 4), np.float32)
    reward = np.zeros(items, np.float32)
    tree.set(np.arange(items), np.ones(items))
    new = np.ones((chunk, 4), np.float32)
    head = 0

    def make(count: int) -> None:
        nonlocal head
        for _ in range(count):
            place = (head + np.arange(chunk)) % items
            observation[place] = new
            reward[place] = 1.0
            tree.set(place, np.ones(chunk))
            head = (head + chunk) % items
            drawn = tree.draw(rng, batch)
            chance = tree.sums[drawn + tree.leaves] / tree.sums[1]
            weights = (items * chance) ** -0.4
            weights /= weights.max()
            seen = observation[drawn].sum() + observation[(drawn + 1) % items].sum()
            seen += (reward[drawn] * weights).sum()
            tree.set(drawn, rng.random(batch) + 1e-6 * seen)

    return make


def flashbax_updates(items: int, chunk: int, batch: int) -> Callable[[int], None]:
    """flashbax's flat prioritized buffer in one jitted loop; the function makes so many updates."""
    import flashbax as fbx
    import jax
    import jax.numpy as jnp

    buffer = fbx.make_prioritised_flat_buffer(
        max_length=items,
        min_length=batch,
        sample_batch_size=batch,
        add_sequences=True,
        add_batch_size=1,
        priority_exponent=1.0,
    )
    one = {"observation": jnp.zeros(4), "action": jnp.int32(0), "reward": jnp.float32(0)}

    def steps(length: int) -> dict:
        return {
            "observation": jnp.ones((1, length, 4)),
            "action": jnp.zeros((1, length), jnp.int32),
            "reward": jnp.ones((1, length)),
        }

    def update(_: int, carried: tuple) -> tuple:
        state, key = carried
        key, draw_key, new_key = jax.random.split(key, 3)
        state = buffer.add(state, steps(chunk))
        drawn = buffer.sample(state, draw_key)
        weights = (items * drawn.probabilities) ** -0.4
        weights = weights / weights.max()
        pair = drawn.experience
        seen = pair.first["observation"].sum() + pair.second["observation"].sum()
        seen += (pair.first["reward"] * weights).sum()
        priority = jax.random.uniform(new_key, (batch,)) + 1e-6 * seen
        return buffer.set_priorities(state, drawn.indices, priority), key

    run = jax.jit(
        lambda carried, count: jax.lax.fori_loop(0, count, update, carried), donate_argnums=0
    )
    fill = jax.jit(
        lambda state: jax.lax.fori_loop(
            0, items // 1000 + 1, lambda _, s: buffer.add(s, steps(1000)), state
        ),
        donate_argnums=0,
    )
    carried = fill(buffer.init(one)), jax.random.PRNGKey(0)

    def make(count: int) -> None:
        nonlocal carried
        carried = jax.block_until_ready(run(carried, count))

    return make


KINDS = {"numpy": numpy_updates, "flashbax": flashbax_updates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=list(KINDS), required=True)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--chunk", type=int, required=True, help="inserted at once")
    parser.add_argument("--batch", type=int, required=True, help="drawn at once")
    parser.add_argument("--updates", type=int, required=True)
    args = parser.parse_args()
    make = KINDS[args.kind](args.items, args.chunk, args.batch)
    make(10)
    start = time.perf_counter()
    make(args.updates)
    print(json.dumps({"updates_per_second": args.updates / (time.perf_counter() - start)}))


if __name__ == "__main__":
    main()
