"""Generated tasks say what their papers say, on examples that are read symbol by symbol."""

import jax
import numpy as np
import pytest

from missing_bits.data import generated
from missing_bits.data.generated import TASKS


def draw(name, size, seed):
    """An example in numpy, inputs as symbols where they are one-hot."""
    example = jax.device_get(_DRAW[name](jax.random.key(seed), size))
    one_hot = example.inputs.shape[1] > 2
    return example._replace(inputs=example.inputs.argmax(1)) if one_hot else example


_DRAW = {name: jax.jit(task.draw, static_argnums=1) for name, task in TASKS.items()}


@pytest.mark.parametrize("name", TASKS)
def test_sizes_are_as_the_table_says(name):
    task = TASKS[name]
    size = generated.SHORTEST[name]
    example = draw(name, size, 0)
    length = size + task.beyond
    assert example.inputs.shape == ((length,) if task.features > 2 else (length, task.features))
    assert example.targets.shape == ((length,) if task.classes else (length, task.outputs))
    assert example.counted.shape == (length,)
    assert example.counted.any()


@pytest.mark.parametrize("seed", range(3))
def test_adding(seed):
    values, marks = draw("adding", 11, seed).inputs.T
    example = draw("adding", 11, seed)
    (marked,) = np.nonzero(marks)
    assert len(marked) == 2
    assert marked[0] < 5 <= marked[1]
    assert example.targets[-1, 0] == pytest.approx(values[marked].sum())
    assert np.flatnonzero(example.counted).tolist() == [10]
    assert ((values >= 0) & (values < 1)).all()


@pytest.mark.parametrize("seed", range(3))
def test_copying(seed):
    """Ten letters, three blanks and a sign for a delay of four, ten blanks."""
    example = draw("copying", 4, seed)
    assert (example.inputs[:10] < 8).all()
    assert example.inputs[10:].tolist() == [8, 8, 8, 9, *[8] * 10]
    assert np.flatnonzero(example.counted).tolist() == list(range(14, 24))
    assert example.targets[14:].tolist() == example.inputs[:10].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_selective_copying(seed):
    example = draw("selective_copying", 30, seed)
    shown = example.inputs[:30]
    assert (shown < 16).sum() == 16
    assert set(shown[shown >= 16]) == {16}
    assert example.inputs[30:].tolist() == [17] * 16
    assert example.targets[30:].tolist() == shown[shown < 16].tolist()
    assert np.flatnonzero(example.counted).tolist() == list(range(30, 46))


@pytest.mark.parametrize("seed", range(3))
def test_induction(seed):
    example = draw("induction", 12, seed)
    first, last = np.flatnonzero(example.inputs == 15)
    assert last == 11
    assert example.targets[-1] == example.inputs[first + 1]
    assert np.flatnonzero(example.counted).tolist() == [11]


def test_parity():
    example = draw("parity", 20, 0)
    bits = example.inputs[:, 0].astype(int)
    assert example.targets.tolist() == [bits[: t + 1].sum() % 2 for t in range(20)]
    assert example.counted.all()
    assert 0 < bits.sum() < 20


def test_chance_is_what_guessing_reaches():
    """Saying 1 to every sum, over 4,000 of them."""
    keys = jax.random.split(jax.random.key(0), 4_000)
    sums = jax.vmap(lambda key: generated.adding(key, 4).targets[0, 0])(keys)
    assert np.mean(np.abs(sums - 1) < 0.04) == pytest.approx(TASKS["adding"].chance, abs=0.015)
