"""How one update is laid over seeds and devices. The only file that knows `jax.pmap`.

- one seed, one device: plain `jax.jit`;
- several seeds: vmapped, and sharded over the devices, which then do not talk to each other;
- one seed, several devices: each holds its share of environments and batch under the axis `collectives.AXIS`.

Randomness: the key of update i is `fold_in(key of the seed, i)`, whatever the layout.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits import collectives
from missing_bits.errors import require
from missing_bits.loop.experiment import Experiment

_UPDATE, _INIT, _ACT, _EVALUATE = range(4)  # streams of keys


class Layout:
    """Maps the functions of an experiment, which are written for one seed and one device.

    Args:
      seeds: one integer per seed.
      devices: how many devices to use.

    Raises:
      UserError: there are fewer devices, or they cannot share the seeds evenly.
    """

    def __init__(self, seeds: Sequence[int], devices: int) -> None:
        here = jax.local_device_count()
        require(
            devices <= here,
            f"--run.devices={devices}, but there are {here}: use at most {here}, or set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices} to split the CPU.",
        )
        require(
            len(seeds) == 1 or len(seeds) % devices == 0,
            f"--run.num-seeds={len(seeds)} cannot be shared evenly by --run.devices={devices}: use a multiple.",
        )
        self.seeds, self.num_devices = seeds, devices
        self.devices = jax.local_devices()[:devices]
        self.shares_seed = len(seeds) == 1 and devices > 1
        self._mapped = len(seeds) > 1 or devices > 1
        self._keys = [jax.random.key(seed) for seed in seeds]

    def check_split(self, experiment: Experiment) -> None:
        """Raises `UserError` where devices cannot share one seed's work evenly."""
        for name in experiment.split_over_devices if self.shares_seed else ():
            value = getattr(experiment.config, name)
            require(
                value % self.num_devices == 0,
                f"--{name.replace('_', '-')}={value} cannot be shared evenly by --run.devices={self.num_devices}: "
                "use a multiple.",
            )

    def init(self, experiment: Experiment) -> Any:
        """The state of every seed, laid out."""
        return self._lay(experiment.init, (0,))(self._stream(_INIT))

    def updates(self, experiment: Experiment) -> Callable[[Any, Any, int, int], tuple[Any, Any]]:
        """The function (state, batches, first, count) -> (state, metrics of the last update).

        It donates the state. `batches` has leaves [K, seeds, global batch, ...] or is None; updates first, ...,
        first + count - 1 are made, count <= K. The count is not part of the program, so that any number of
        updates runs the same compiled loop body, to the same bits.
        """

        def run(
            state: Any, batches: Any, key: jax.Array, first: jax.Array, count: jax.Array
        ) -> tuple[Any, Any]:
            key = jax.random.wrap_key_data(key)

            def body(i: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
                batch = jax.tree.map(lambda x: x[i], batches)
                return experiment.step(carry[0], batch, jax.random.fold_in(key, first + i))

            one = jax.tree.map(lambda x: x[0], batches)
            _, shapes = jax.eval_shape(experiment.step, state, one, key)
            metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            return jax.lax.fori_loop(0, count, body, (state, metrics))

        mapped = self._lay(run, (0, 0, 0, None, None), donate=(0,))
        keys = jax.random.key_data(self._stream(_UPDATE))
        return lambda state, batches, first, count: mapped(
            state, self._split(batches), keys, np.int32(first), np.int32(count)
        )

    def acting(self, experiment: Any) -> Callable[[Any, np.ndarray, np.ndarray], np.ndarray]:
        """The function (state, observations [S, E, ...], counts [S, 2]) -> actions [S, E].

        The counts are environment steps and vector steps made; the latter number the keys.
        """

        def act(
            learned: Any, observation: jax.Array, counts: jax.Array, key: jax.Array
        ) -> jax.Array:
            key = jax.random.fold_in(jax.random.wrap_key_data(key), counts[1])
            return experiment.act(learned, observation, counts[0], key)

        keys = jax.random.key_data(self._stream(_ACT))
        if (
            not self._mapped
        ):  # a host environment waits for every answer: as few arguments as can be
            one = jax.jit(
                lambda learned, observation, counts: act(learned, observation, counts, keys)
            )
            return lambda state, seen, counts: np.asarray(
                one(experiment.learned(state), seen[0], counts[0])
            )[None]
        mapped = self._lay(act, (0, 0, 0, 0))

        def answer(state: Any, observation: np.ndarray, counts: np.ndarray) -> np.ndarray:
            seen, counts = self._split_one(observation), self._per_seed(counts)
            return np.asarray(mapped(experiment.learned(state), seen, counts, keys)).reshape(
                observation.shape[:2]
            )

        return answer

    def learned(self, experiment: Experiment, state: Any) -> list[Any]:
        """What each seed has learned, as arrays on the host."""
        return self.rows(experiment.learned(state))

    def evaluation_key(self, row: int, update: int) -> jax.Array:
        """The key of one seed's evaluation after `update` updates."""
        return jax.random.fold_in(jax.random.fold_in(self._keys[row], _EVALUATE), update)

    def rows(self, tree: Any) -> list[Any]:
        """A laid-out tree, without a batch axis, as one tree of host arrays per seed."""
        tree = jax.device_get(tree)
        if not self._mapped:
            return [tree]
        if self.shares_seed:
            return [jax.tree.map(lambda x: x[0], tree)]
        tree = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)
        return [jax.tree.map(lambda x, s=s: x[s], tree) for s in range(len(self.seeds))]

    def put(self, tree: Any) -> Any:
        """A tree of host arrays in the shape of a laid-out state, on the devices again."""
        if not self._mapped:
            return jax.device_put(tree, self.devices[0])
        return jax.pmap(lambda x: x, devices=self.devices)(tree)

    def _lay(
        self, fn: Callable, in_axes: tuple[int | None, ...], donate: tuple[int, ...] = ()
    ) -> Callable:
        if not self._mapped:
            return jax.jit(fn, donate_argnums=donate)
        if self.shares_seed:
            return jax.pmap(
                fn, collectives.AXIS, in_axes=in_axes, donate_argnums=donate, devices=self.devices
            )
        return jax.pmap(
            jax.vmap(fn, in_axes), in_axes=in_axes, donate_argnums=donate, devices=self.devices
        )

    def _stream(self, stream: int) -> Any:
        keys = jnp.stack([jax.random.fold_in(key, stream) for key in self._keys])
        if self.shares_seed:
            return jnp.broadcast_to(keys, (self.num_devices,))
        return self._per_seed(keys)

    def _per_seed(self, tree: Any) -> Any:
        """Leaves [S, ...] -> one per call of the mapped function; devices that share a seed all get it."""
        if not self._mapped:
            return jax.tree.map(lambda x: x[0], tree)
        if self.shares_seed:
            return jax.tree.map(
                lambda x: np.broadcast_to(x, (self.num_devices, *x.shape[1:])), tree
            )
        return jax.tree.map(lambda x: x.reshape(self.num_devices, -1, *x.shape[1:]), tree)

    def _split_one(self, x: np.ndarray) -> np.ndarray:
        """[S, B, ...] -> [B, ...], [devices, S / devices, B, ...] or [devices, B / devices, ...]."""
        if self.shares_seed:
            return x.reshape(self.num_devices, -1, *x.shape[2:])
        return self._per_seed(x)

    def _split(self, batches: Any) -> Any:
        """[K, S, B, ...] -> the same with the K axis before the shard: [K, B, ...], [devices, ..., K, B, ...]."""
        if not self._mapped:
            return jax.tree.map(lambda x: x[:, 0], batches)
        if self.shares_seed:
            split = [self.num_devices, -1]
            return jax.tree.map(
                lambda x: np.swapaxes(x.reshape(x.shape[0], *split, *x.shape[3:]), 0, 1), batches
            )
        return self._per_seed(jax.tree.map(lambda x: np.swapaxes(x, 0, 1), batches))
