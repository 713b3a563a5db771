"""How one update is laid over seeds and devices. The only file that knows `jax.pmap`.

- one row, one device: plain `jax.jit`;
- several rows (seeds, settings): vmapped, and sharded over the devices, which then do not talk to
  each other;
- one row, several devices: each holds its share of environments and batch under the axis
  `collectives.AXIS`.

Everything that differs between rows is an argument of the program: keys and numbers too. Another
seed or step size runs the same compiled program.

Randomness: the key of update i is `fold_in(key of the seed, i)`, whatever the layout.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from missing_bits import collectives, options
from missing_bits.envs.steps import Acted, says_something
from missing_bits.errors import require
from missing_bits.loop.experiment import DeviceSource, Experiment
from missing_bits.loop.family import Family
from missing_bits.metrics import Mean, Metrics

# Streams of keys.
_UPDATE = 0
_INIT = 1
_ACT = 2
_EVALUATE = 3
_FEED = 4  # of what a device source draws in an update
_FEED_INIT = 5


class Running(NamedTuple):
    """What a run carries from update to update on the devices."""

    state: Any  # the method's
    feed: Any  # a device source's; () without one


Window = dict[str, Mean]  # sums and counts of metrics since the last row that was written


class Layout:
    """Maps the functions of a method, which are written for one row and one device.

    Args:
      seeds: one integer for each row.
      devices: how many devices to use.

    Raises:
      UserError: there are fewer devices, or they cannot share the rows evenly.
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
            f"--run.num-seeds={len(seeds)} cannot be shared evenly by --run.devices={devices}: use "
            "a multiple.",
        )
        self.seeds = seeds
        self.num_devices = devices
        self.devices = jax.local_devices()[:devices]
        self.shares_row = len(seeds) == 1 and devices > 1
        self._mapped = len(seeds) > 1 or devices > 1
        self._keys = [jax.random.key(seed) for seed in seeds]
        self._put = jax.pmap(_as_it_is, devices=self.devices)

    def check_split(self, experiment: Experiment, config: Any) -> None:
        """Raises `UserError` where devices cannot share one row's work evenly."""
        for name in experiment.plan.shared if self.shares_row else ():
            size = options.value(config, name)
            require(
                size % self.num_devices == 0,
                f"--{name.replace('_', '-')}={size} cannot be shared evenly by --run.devices="
                f"{self.num_devices}: use a multiple.",
            )

    def init(self, family: Family, source: Any) -> Running:
        """The state of every row before the first update, laid out."""

        def init(key: jax.Array, feed_key: jax.Array, numbers: jax.Array) -> Running:
            method = family.at(numbers)
            feed = ()
            if isinstance(source, DeviceSource):
                feed = source.init(method.memory, jax.random.wrap_key_data(feed_key))
            return _typed(Running(method.init(jax.random.wrap_key_data(key)), feed))

        laid = self._lay(init, (0, 0, 0))
        return laid(self._stream(_INIT), self._stream(_FEED_INIT), self._numbers(family))

    def updates(
        self, family: Family, source: Any
    ) -> Callable[[Running, Window, Any, int, int], tuple[Running, Window]]:
        """The function (running, window, batches, first, count) -> (running, window).

        It donates `running`. `batches` has leaves [K, rows, global batch, ...] or is None; updates
        first, ..., first + count - 1 are made, count <= K. The count is not part of the program, so
        that any number of updates runs the same compiled loop body, to the same bits.
        """
        update = self._update(family, source)

        def run(
            running: Running,
            window: Window,
            batches: Any,
            keys: jax.Array,
            numbers: jax.Array,
            first: jax.Array,
            count: jax.Array,
        ) -> tuple[Running, Window]:
            def body(i: jax.Array, carry: tuple[Running, Window]) -> tuple[Running, Window]:
                running, window = carry
                batch = jax.tree.map(lambda x: x[i], batches)
                running, metrics = update(running, batch, keys, numbers, first + i)
                return running, {name: _add(window[name], metrics[name]) for name in window}

            return jax.lax.fori_loop(0, count, body, (running, window))

        laid = self._lay(run, (0, 0, 0, 0, 0, None, None), donate=(0, 1))
        keys = self._stream(_UPDATE, _FEED)
        numbers = self._numbers(family)
        return lambda running, window, batches, first, count: laid(
            running, window, self._split(batches), keys, numbers, np.int32(first), np.int32(count)
        )

    def window(self, family: Family, source: Any, running: Running, batches: Any) -> Window:
        """The empty window of the metrics that updates give."""
        update = self._update(family, source)

        def metrics(running: Running, batches: Any, keys: jax.Array, numbers: jax.Array) -> Metrics:
            one = jax.tree.map(lambda x: x[0], batches)
            return update(running, one, keys, numbers, jnp.int32(0))[1]

        laid = self._lay(metrics, (0, 0, 0, 0))
        keys = self._stream(_UPDATE, _FEED)
        arguments = running, self._split(batches), keys, self._numbers(family)
        return self.empty_window(jax.eval_shape(laid, *arguments))

    def empty_window(self, names: Sequence[str]) -> Window:
        """A window of some metrics in which nothing has been counted."""
        zero = np.zeros(self._leading(), np.float32)
        # On the devices, as later windows are: of other arrays the program would be compiled anew.
        return self.put_all({name: Mean(zero, zero) for name in names})

    def acting(self, family: Family) -> "Acting":
        """What answers to a host's observations."""
        return Acting(self, family)

    def learned(self, experiment: Experiment, running: Running) -> list[Any]:
        """What each row has learned, as arrays on the host."""
        return self.rows(experiment.learned(running.state))

    def evaluation_key(self, row: int, update: int) -> jax.Array:
        """The key of one row's evaluation after `update` updates."""
        return jax.random.fold_in(jax.random.fold_in(self._keys[row], _EVALUATE), update)

    def rows(self, tree: Any) -> list[Any]:
        """A laid-out tree, without a batch axis, as one tree of host arrays per row."""
        if self.shares_row:
            return [jax.tree.map(lambda x: x[0], jax.device_get(tree))]
        tree = self.by_row(tree)
        return [jax.tree.map(lambda x, s=s: x[s], tree) for s in range(len(self.seeds))]

    def by_row(self, tree: Any) -> Any:
        """A laid-out tree as host arrays [rows, ...]; [devices, ...] where these share a row."""
        tree = jax.device_get(tree)
        if not self._mapped:
            return jax.tree.map(lambda x: x[None], tree)
        if self.shares_row:
            return tree
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

    def of_rows(self, tree: Any) -> Any:
        """What `by_row` returned, laid out on the devices again."""
        return self.put_all(tree if self.shares_row else self._per_row(tree))

    def fetch(self, experiment: Experiment, running: Running) -> Running:
        """A copy on the host, in which what devices that share a row have in common stands once."""
        if not self.shares_row:
            return self.by_row(running)
        shared = {
            name: part
            if name in experiment.plan.owned
            else jax.tree.map(lambda x: x.addressable_data(0)[0], part)
            for name, part in running.state._asdict().items()
        }
        return jax.device_get(Running(running.state._replace(**shared), running.feed))

    def put(self, experiment: Experiment, running: Running) -> Running:
        """What `fetch` returned, laid out on the devices again."""
        if not self.shares_row:
            return self.of_rows(running)
        repeated = {
            name: part
            if name in experiment.plan.owned
            else jax.tree.map(lambda x: np.broadcast_to(x, (self.num_devices, *x.shape)), part)
            for name, part in running.state._asdict().items()
        }
        return self.put_all(Running(running.state._replace(**repeated), running.feed))

    def put_all(self, tree: Any) -> Any:
        """A laid-out tree of host arrays, on the devices."""
        if not self._mapped:
            return jax.device_put(tree, self.devices[0])
        if not jax.tree.leaves(tree):
            return tree
        return self._put(tree)

    def _update(self, family: Family, source: Any) -> Callable[..., tuple[Running, Metrics]]:
        """One update of one row on one device."""

        def update(
            running: Running, batch: Any, keys: jax.Array, numbers: jax.Array, i: jax.Array
        ) -> tuple[Running, Metrics]:
            method = family.at(numbers)
            key, feed_key = jax.vmap(jax.random.fold_in, (0, None))(
                jax.random.wrap_key_data(keys), i
            )
            feed = running.feed
            logged: Metrics = {}
            if isinstance(source, DeviceSource):
                learned = method.learned(running.state)

                def act(*seen: Any) -> Acted:
                    return method.act(learned, *seen)

                feed, batch, logged = source.next(feed, act, feed_key)
            state, metrics = method.step(running.state, batch, key)
            return _typed(Running(state, feed)), {**metrics, **logged}

        return update

    def _lay(
        self, fn: Callable, in_axes: tuple[int | None, ...], donate: tuple[int, ...] = ()
    ) -> Callable:
        if not self._mapped:
            return jax.jit(fn, donate_argnums=donate)
        settings = {"in_axes": in_axes, "donate_argnums": donate, "devices": self.devices}
        if self.shares_row:
            return jax.pmap(fn, collectives.AXIS, **settings)
        return jax.pmap(jax.vmap(fn, in_axes), **settings)

    def _leading(self) -> tuple[int, ...]:
        """The axes before those of one row on one device."""
        if not self._mapped:
            return ()
        if self.shares_row:
            return (self.num_devices,)
        return (self.num_devices, len(self.seeds) // self.num_devices)

    def _stream(self, *streams: int) -> jax.Array:
        """Every row's keys of some streams, as data, on the devices; one stream has no axis."""
        folded = [[jax.random.fold_in(key, stream) for stream in streams] for key in self._keys]
        data = np.stack([[jax.random.key_data(key) for key in row] for row in folded])
        return self.put_all(self._per_row(data if len(streams) > 1 else data[:, 0]))

    def _numbers(self, family: Family) -> jax.Array:
        return self.put_all(self._per_row(family.numbers))

    def _per_row(self, tree: Any) -> Any:
        """Leaves [rows, ...] as arguments of the mapped function; devices that share all get it."""
        if not self._mapped:
            return jax.tree.map(lambda x: x[0], tree)
        if self.shares_row:
            repeated = (self.num_devices,)
            return jax.tree.map(lambda x: np.broadcast_to(x, (*repeated, *x.shape[1:])), tree)
        return jax.tree.map(lambda x: x.reshape(*self._leading(), *x.shape[1:]), tree)

    def _split_one(self, tree: Any) -> Any:
        """[rows, B, ...] as an argument: each device gets its share of B, or of the rows."""
        if self.shares_row:
            return jax.tree.map(lambda x: x.reshape(self.num_devices, -1, *x.shape[2:]), tree)
        return self._per_row(tree)

    def _split(self, batches: Any) -> Any:
        """[K, rows, B, ...] likewise, with the axis K before that of a device's share of B."""
        if not self._mapped:
            return jax.tree.map(lambda x: x[:, 0], batches)
        if self.shares_row:

            def shares(x: np.ndarray) -> np.ndarray:
                return np.swapaxes(x.reshape(x.shape[0], self.num_devices, -1, *x.shape[3:]), 0, 1)

            return jax.tree.map(shares, batches)
        return self._per_row(jax.tree.map(lambda x: np.swapaxes(x, 0, 1), batches))


class Acting:
    """The agents of all rows as a host's environments meet them; keeps what they remember.

    Args:
      layout: of the rows.
      family: the agents.

    Attributes:
      memory: what the agents remember, laid out; None before the first observation.
      held: what they act by, laid out; None to act by what is learned at the time.
    """

    def __init__(self, layout: Layout, family: Family) -> None:
        self._layout = layout
        self._learned = family.first.learned
        self._keys = layout._stream(_ACT)
        self._numbers = layout._numbers(family)
        self.memory: Any = None
        self.held: Any = None

        def start(observation: jax.Array, numbers: jax.Array) -> Any:
            return family.at(numbers).memory(observation.shape[0])

        def answer(
            learned: Any,
            memory: Any,
            observation: jax.Array,
            reset: jax.Array,
            counts: jax.Array,
            key: jax.Array,
            numbers: jax.Array,
        ) -> Acted:
            key = jax.random.fold_in(jax.random.wrap_key_data(key), counts[1])
            return family.at(numbers).act(learned, memory, observation, reset, counts[0], key)

        def answer_if_due(due: jax.Array, learned: Any, memory: Any, *seen: Any) -> Acted:
            acted = answer(learned, memory, *seen)
            kept = jax.tree.map(lambda new, old: jnp.where(due, new, old), acted.memory, memory)
            return acted._replace(memory=kept)

        self._copy = layout._lay(lambda learned: jax.tree.map(jnp.copy, learned), (0,))
        self._start = layout._lay(start, (0, 0))
        self._answer = layout._lay(answer, (0,) * 7)
        self._answer_if_due = layout._lay(answer_if_due, (0,) * 8)

    def hold(self, running: Running) -> None:
        """Acts by what is learned now from here on, whatever becomes of `running`."""
        self.held = self._copy(self._learned(running.state))

    def __call__(
        self,
        running: Running,
        observation: np.ndarray,
        reset: np.ndarray,
        due: np.ndarray,
        counts: np.ndarray,
    ) -> Acted:
        """Actions [rows, E] and extras on the host for observations [rows, E, ...].

        Args:
          running: the current state; not looked at where parameters are held.
          observation: [rows, E, ...].
          reset: bool [rows, E], whether an observation is the first of its episode.
          due: bool [rows], which rows take the action; the memory of others stays.
          counts: int32 [rows, 2], environment steps and vector steps made; the latter number keys.
        """
        layout = self._layout
        learned = self._learned(running.state) if self.held is None else self.held
        if self.memory is None:
            self.memory = layout.put_all(self._start(layout._split_one(observation), self._numbers))
        if not layout._mapped:  # a host waits for every answer: nothing more than must be
            acted = self._answer(
                learned, self.memory, observation[0], reset[0], counts[0], self._keys, self._numbers
            )
            if due[0]:
                self.memory = acted.memory
            extras = acted.extras
            if says_something(extras):
                extras = jax.tree.map(lambda x: np.asarray(x)[None], extras)
            return Acted(np.asarray(acted.action)[None], (), extras)
        acted = self._answer_if_due(
            layout._per_row(due),
            learned,
            self.memory,
            layout._split_one(observation),
            layout._split_one(reset),
            layout._per_row(counts),
            self._keys,
            self._numbers,
        )
        self.memory = acted.memory
        envs = observation.shape[:2]
        leading = len(layout._leading()) + 1  # axes before those of one environment's answer

        def on_host(x: jax.Array) -> np.ndarray:
            return np.asarray(x).reshape(*envs, *x.shape[leading:])

        return Acted(on_host(acted.action), (), jax.tree.map(on_host, acted.extras))


def _as_it_is(tree: Any) -> Any:
    return tree


def _typed(tree: Any) -> Any:
    """Gives numbers without a type of their own, such as `where(x, 1.0, 0.0)`, the one they have.

    As an argument of the next call, another type of number compiles the program anew.
    """
    return jax.tree.map(
        lambda x: jax.lax.convert_element_type(x, x.dtype) if jax.typeof(x).weak_type else x, tree
    )


def _add(window: Mean, figure: jax.Array | Mean) -> Mean:
    """A window that has taken in another update's figure."""
    if isinstance(figure, Mean):
        return Mean(window.total + figure.total, window.count + figure.count)
    return Mean(window.total + figure, window.count + 1)
