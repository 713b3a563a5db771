"""Sequences with an answer: any network of `nets/sequences` on any task of `--task`.

About a minute on one core, by default an LSTM that reads digits row by row.

    python run.py --exp=sequences --task=digits_rows --network=gru
    python run.py --exp=mamba --task=induction --test-lengths 128 256 512 1024

A linear layer embeds each step, the network mixes steps, and a linear layer reads them. Series with
a label are read at their last step, from the mean over all steps so far or from that step alone
(`--read`); tasks that ask at several steps are read at each of these. With y_i the answers to the n
questions of a batch, of all devices, and p_i what is predicted,

    loss = -1 / n sum_i log p_i(y_i)      for classes
    loss = 1 / n sum_i |y_i - p_i|^2 / K  for numbers

Generated tasks are drawn anew for every update, inside it, and judged on examples that no update
draws; the longest of `--test-lengths` is also how far the transformer's positions reach.
Shapes: B series in a batch (on one device), T steps, F features, D width of the network, K classes
or numbers.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

from missing_bits import collectives, optimizers
from missing_bits.data.generated import Example
from missing_bits.data.series import Labeled, SeriesSet, Task
from missing_bits.data.source import BatchSource
from missing_bits.errors import require, require_positive
from missing_bits.eval import forecast, linear_probe
from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.metrics import Mean, Metrics
from missing_bits.nets.sequences.stack import Network, Settings
from missing_bits.options import Flat
from missing_bits.pictures import canvas
from missing_bits.pictures import sequences as pictures
from missing_bits.plan import Plan


@dataclass(frozen=True)
class Config:
    """Networks on sequences. Periods and budgets count updates."""

    series: Flat[Task] = Task()
    mixing: Flat[Settings] = Settings()
    read: Literal["mean", "last"] = "mean"
    """What the label of a series is read from: the mean over its steps, or the last one. Tasks that
    ask at several steps read each of these."""
    updates: int = 1_000
    """Budget, in updates."""
    batch_size: int = 64
    """Series per update, over all devices."""
    test_series: int = 1_000
    """Series of a generated task, of each length, to test on."""
    test_lengths: tuple[int, ...] = ()
    """Further lengths (of copying: delays) of a generated task to test on at the end."""
    optimizer: optimizers.Optimizer = optimizers.Optimizer(clip=1.0)
    """How parameters move."""


PRESETS: dict[str, dict[str, Any]] = {
    task: {"updates": 5_000} for task in ("adding", "copying", "selective_copying", "induction")
}
TINY = {
    "task": "digits_rows",
    "network": "gru",
    "layers": 1,
    "width": 8,
    "heads": 2,
    "s4_states": 4,
    "mamba_states": 2,
    "updates": 12,
    "batch_size": 16,
    "test_series": 20,
}
_TOLERANCE = 0.04  # of a number that counts as right (Hochreiter and Schmidhuber 1997, 5.4)
_AT_ONCE = 100  # series that are judged together
_LINEAR = 10_000  # series that the linear classifier learns from, at most


class Params(NamedTuple):
    """Parameters of the three parts."""

    embed: Any
    network: Any
    head: Any


class State(NamedTuple):
    """Everything a run knows."""

    params: Params
    opt_state: optax.OptState


class Score(NamedTuple):
    """Sums over the questions of a batch."""

    loss: jax.Array
    right: jax.Array
    count: jax.Array


@dataclass(frozen=True)
class Model:
    """The network with what embeds its steps and reads them."""

    network: Network
    embed: hk.Transformed  # [B, T, F] to [B, T, D]
    head: hk.Transformed  # [B, T, D] to [B, T, K]
    classes: bool
    """Whether answers are classes."""
    averages: bool
    """Whether each step is read from the mean over all up to it."""

    def init(self, key: jax.Array, features: int, width: int) -> Params:
        """Fresh parameters."""
        embed_key, network_key, head_key = jax.random.split(key, 3)
        return Params(
            self.embed.init(embed_key, jnp.zeros((1, 1, features))),
            self.network.init(network_key),
            self.head.init(head_key, jnp.zeros((1, 1, width))),
        )

    def answers(
        self, params: Params, inputs: jax.Array, keys: jax.Array | None = None
    ) -> jax.Array:
        """Logits or numbers [B, T, K] for inputs [B, T, F]; keys [B] for dropout, or None."""
        x = self.embed.apply(params.embed, inputs)
        y, _ = self.network.apply(params.network, x, None, None, keys)
        if self.averages:
            steps = jnp.arange(1, y.shape[1] + 1, dtype=y.dtype)
            y = jnp.cumsum(y, axis=1) / steps[None, :, None]
        return self.head.apply(params.head, y)

    def score(self, params: Params, example: Example, keys: jax.Array | None = None) -> Score:
        """How examples [B, ...] are answered; keys [B] for dropout, or None."""
        answers = self.answers(params, example.inputs, keys)
        if self.classes:
            losses = optax.softmax_cross_entropy_with_integer_labels(answers, example.targets)
            right = jnp.argmax(answers, axis=2) == example.targets
        else:
            off = answers - example.targets
            losses = jnp.mean(jnp.square(off), axis=2)
            right = jnp.all(jnp.abs(off) < _TOLERANCE, axis=2)
        counted = example.counted
        return Score(
            jnp.sum(losses * counted), jnp.sum(right & counted), jnp.sum(counted).astype(jnp.int32)
        )


def asked(batch: Labeled) -> Example:
    """The questions of series from files: a label at the last real step, forecasts at each."""
    length = batch.inputs.shape[1]
    step = jnp.arange(length)[None]
    if batch.targets.ndim > 1:
        return Example(batch.inputs, batch.targets, jnp.ones(batch.inputs.shape[:2], bool))
    targets = jnp.broadcast_to(batch.targets[:, None], batch.inputs.shape[:2])
    return Example(batch.inputs, targets, step == batch.lengths[:, None] - 1)


def examples(task: Task, size: int, keys: jax.Array) -> Example:
    """Examples [B, ...] of a generated task: each depends on its own key of [B] alone."""
    assert task.drawn is not None
    draw = task.drawn.draw
    return jax.vmap(lambda key: draw(key, size))(keys)


class Resources(NamedTuple):
    """What rows share."""

    data: SeriesSet | None  # None for a generated task
    model: Model
    features: int
    evaluation: Evaluation  # of `Params`


class Sequences:
    """The method, as functions on `State`."""

    subject = "task"

    @staticmethod
    def check(config: Config) -> None:
        """Raises `UserError` for settings that cannot run."""
        require_positive(config, "updates", "batch_size", "test_series", "test_lengths")
        drawn = config.series.drawn
        require(
            not config.test_lengths or drawn is not None,
            f"--test-lengths is for generated tasks; series of {config.series.task} have a length "
            "of their own.",
        )
        for length in config.test_lengths:
            dataclasses.replace(config.series, length=length).check("")

    @staticmethod
    def resources(config: Config) -> Resources:
        """The series, the network, and what judges it."""
        task = config.series
        settings = config.mixing
        drawn = task.drawn
        if drawn is None:
            data = task.load()
            context = data.train.inputs.shape[1]
            features = data.train.inputs.shape[2]
            outputs = len(data.classes) or data.train.targets.shape[2]
            classes = bool(data.classes)
            one_label = classes
        else:
            data = None
            context = max(task.size, *config.test_lengths, 0) + drawn.beyond
            features = drawn.features
            outputs = drawn.outputs
            classes = drawn.classes
            one_label = False
        require(
            one_label or config.read == "mean",
            f"--read={config.read} is for series with a label; --task={task.task} asks at steps of "
            "its own. Leave it out.",
        )
        model = Model(
            settings.make(context),
            _embedding(settings.width),
            hk.without_apply_rng(hk.transform(lambda x: hk.Linear(outputs, name="head")(x))),
            classes,
            one_label and config.read == "mean",
        )
        judge = Judge(config, data, model)
        return Resources(data, model, features, judge.evaluation())

    def __init__(self, config: Config, resources: Resources) -> None:
        self.config = config
        self.resources = resources
        shown = ("train/accuracy", "train/loss")
        classes = resources.model.classes
        self.plan = Plan(config.updates, evaluations=10, shown=shown if classes else shown[1:])
        self.evaluation = resources.evaluation
        self.model = resources.model
        self.optimizer = optimizers.make(config.optimizer, config.updates)

    def source(self, seeds: Sequence[int]) -> BatchSource | None:
        """Batches of series; generated tasks need none."""
        if self.resources.data is None:
            return None
        return BatchSource(self.resources.data.train, seeds, self.config.batch_size)

    def init(self, key: jax.Array) -> State:
        """The state before the first update."""
        params = self.model.init(key, self.resources.features, self.config.mixing.width)
        return State(params, self.optimizer.init(params))

    def loss(
        self, params: Params, example: Example, keys: jax.Array, count: jax.Array
    ) -> tuple[jax.Array, Score]:
        """This device's part of the mean over the `count` questions of all devices."""
        score = self.model.score(params, example, keys)
        return score.loss / count, score

    def step(self, state: State, batch: Labeled | None, key: jax.Array) -> tuple[State, Metrics]:
        """Draws examples if the task is generated, and makes one update."""
        config = self.config
        keys = collectives.shard(jax.random.split(key, config.batch_size))
        keys = jax.vmap(jax.random.split)(keys)  # [B, 2]
        if batch is None:
            example = examples(config.series, config.series.size, keys[:, 0])
        else:
            example = asked(batch)
        count = collectives.total(jnp.sum(example.counted))
        descent = optimizers.descend(
            self.loss,
            self.optimizer,
            state.params,
            state.opt_state,
            example,
            keys[:, 1],
            count,
            reduce=collectives.total,
        )
        metrics = {
            "train/loss": Mean(descent.loss * count, count),
            "train/gradient_norm": descent.gradient_norm,
        }
        if self.model.classes:
            metrics["train/accuracy"] = Mean(collectives.total(descent.aux.right), count)
        return State(descent.params, descent.opt_state), metrics

    def learned(self, state: State) -> Params:
        """The parameters."""
        return state.params


def _embedding(width: int) -> hk.Transformed:
    """The linear layer that embeds each step, [B, T, F] to [B, T, D].

    Its biases start as large as its weights, as torch's do. With zeros, a step of zeros (a margin
    of an image) would stay zero through all layers, where the gradient of each normalization is
    1 / sqrt(1e-5): together 1e9 and more.
    """

    def embed(x: jax.Array) -> jax.Array:
        largest = x.shape[-1] ** -0.5
        biases = hk.initializers.RandomUniform(-largest, largest)
        return hk.Linear(width, b_init=biases, name="embed")(x)

    return hk.without_apply_rng(hk.transform(embed))


class Judge:
    """What judges parameters: test series, simpler methods beside, pictures.

    Args:
      config: the configuration.
      data: the series; None for a generated task.
      model: the network.
    """

    def __init__(self, config: Config, data: SeriesSet | None, model: Model) -> None:
        self._config = config
        self._data = data
        self._model = model
        self._title = f"{config.mixing.network} on {canvas.subject(config.series.task)}"
        self._score = jax.jit(model.score)

    def evaluation(self) -> Evaluation:
        """As the loop wants it."""
        forecasting = self._data is not None and not self._data.classes
        headline = (
            Headline("eval/squared_error", False) if forecasting else Headline("eval/accuracy")
        )
        against = "what a linear model makes of them" if self._data is not None else ""
        return Evaluation(headline, self.scores, self.baselines, self.pictures, against)

    def scores(self, params: Params, key: jax.Array, last: bool) -> dict[str, float]:
        """On the test series, the same ones at every call; of further lengths at the last."""
        found = self._judged(params, None)
        if not last:
            return found
        for length in self._config.test_lengths:
            more = self._judged(params, length)
            found |= {f"{name}_at_{length}": value for name, value in more.items()}
        return found

    def _judged(self, params: Params, length: int | None) -> dict[str, float]:
        sums = np.zeros(3)
        for example in self._test(length):
            sums += np.array(jax.device_get(self._score(params, example)), np.float64)
        loss, right, count = sums
        if self._model.classes:
            return {"eval/loss": loss / count, "eval/accuracy": right / count}
        if self._data is not None:
            return {"eval/squared_error": loss / count}
        return {"eval/squared_error": loss / count, "eval/accuracy": right / count}

    def _test(self, length: int | None = None) -> Iterator[Example]:
        """Test series, some at a time."""
        config = self._config
        if self._data is None:
            size = length or config.series.size
            # No update draws from this key: updates fold their number into the run's.
            root = jax.random.fold_in(jax.random.key(2**31 - 1), size)
            for start in range(0, config.test_series, _AT_ONCE):
                count = min(_AT_ONCE, config.test_series - start)
                numbers = jnp.arange(start, start + count)
                keys = jax.vmap(lambda number: jax.random.fold_in(root, number))(numbers)
                yield _examples(config.series, size, keys)
        else:
            test = self._data.test
            for start in range(0, len(test.inputs), _AT_ONCE):
                rows = slice(start, start + _AT_ONCE)
                yield asked(Labeled(*(jnp.asarray(array[rows]) for array in test)))

    def baselines(self, key: jax.Array) -> dict[str, float]:
        """What guessing, repeating and a linear model reach on the same questions.

        The linear model of classes learns from 10,000 series at most.
        """
        if self._data is None:
            drawn = self._config.series.drawn
            assert drawn is not None
            return {"baseline/chance_accuracy": drawn.chance}
        train, test, classes = self._data.train, self._data.test, self._data.classes
        if not classes:
            return {
                "baseline/naive_squared_error": forecast.naive(test.inputs, test.targets),
                "baseline/linear_squared_error": forecast.linear(*train[:2], *test[:2]),
            }
        # Which are drawn makes no difference between runs: always the same.
        some = np.random.default_rng(0).permutation(len(train.inputs))[:_LINEAR]
        flat = [
            np.asarray(inputs).reshape(len(inputs), -1)
            for inputs in (train.inputs[some], test.inputs)
        ]
        accuracy = linear_probe.accuracy(
            flat[0], train.targets[some], flat[1], test.targets, len(classes)
        )
        most = np.bincount(train.targets).argmax()
        chance = float(np.mean(test.targets == most))
        return {"baseline/chance_accuracy": chance, "baseline/linear_accuracy": accuracy}

    def pictures(self, params: Params, seed: int, folder: Path) -> None:
        """How far back the last answer reaches, and how accuracy falls with the length."""
        example = next(self._test())
        pictures.reach(
            self._reach(params, example),
            self._title,
            folder / f"reach_seed{seed}.png",
        )
        if self._config.test_lengths:
            lengths = sorted({self._config.series.size, *self._config.test_lengths})
            accuracy = [self._judged(params, length)["eval/accuracy"] for length in lengths]
            drawn = self._config.series.drawn
            assert drawn is not None
            pictures.lengths(
                lengths,
                accuracy,
                drawn.chance,
                self._config.series.size,
                self._title,
                folder / f"lengths_seed{seed}.png",
            )

    def _reach(self, params: Params, example: Example) -> np.ndarray:
        """The size of the gradient of the last asked answer to the input k steps before it [T].

        A mean over series; of an answer, the sum of its squares is differentiated.
        """

        def answered(inputs: jax.Array) -> jax.Array:
            answers = self._model.answers(params, inputs)
            length = inputs.shape[1]
            last = length - 1 - jnp.argmax(example.counted[:, ::-1], axis=1)
            return 0.5 * jnp.sum(jnp.square(answers[jnp.arange(len(inputs)), last])), last

        gradient, last = jax.jit(jax.grad(answered, has_aux=True))(example.inputs)
        size = np.linalg.norm(jax.device_get(gradient), axis=2)  # [B, T]
        back = [row[: end + 1][::-1] for row, end in zip(size, np.asarray(last), strict=True)]
        longest = max(map(len, back))
        padded = np.full((len(back), longest), math.nan)
        for row, found in zip(padded, back, strict=True):
            row[: len(found)] = found
        return np.nanmean(padded, axis=0)


_examples = jax.jit(examples, static_argnums=(0, 1))
