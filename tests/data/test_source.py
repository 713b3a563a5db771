"""Batches: pure in seed and update, every image once per epoch, from a thread that ends."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.data.images import Split
from missing_bits.data.source import BatchSource, Order
from missing_bits.errors import UserError
from missing_bits.numeric import ceil_div


def numbered(count: int) -> Split:
    """Images that show their number, which is their label too."""
    numbers = np.arange(count)
    return Split(numbers.astype(np.uint8).reshape(-1, 1, 1, 1), numbers.astype(np.int32))


def threads() -> int:
    return sum(thread.name == "batches" for thread in threading.enumerate())


@pytest.fixture
def make():
    made = []

    def make(*arguments, **options) -> BatchSource:
        made.append(BatchSource(*arguments, **options))
        return made[-1]

    yield make
    for source in made:
        source.close()


@given(st.integers(1, 30), st.data(), st.integers(0, 2**40))
@settings(deadline=None)
def test_every_image_once_per_epoch(size, data, seed):
    """Batches one after the other, cut at multiples of the size, are permutations."""
    batch_size = data.draw(st.integers(1, 3 * size))  # up to three epochs at once
    order = Order(size, [seed], batch_size)
    seen = np.concatenate([order(update)[0] for update in range(ceil_div(3 * size, batch_size))])
    epochs = seen[: 3 * size].reshape(3, size)
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()
    if size > 12:  # chance of two equal permutations: 1 in 6 billion
        assert len({tuple(epoch) for epoch in epochs}) == 3


@given(st.lists(st.integers(0, 20), min_size=1, max_size=12))
@settings(deadline=None)
def test_order_does_not_depend_on_what_was_asked_before(updates):
    used = Order(17, [3, 4], 5)
    for update in updates:
        assert (used(update) == Order(17, [3, 4], 5)(update)).all()


def test_seeds_differ_and_stand_alone():
    both = Order(100, [7, 8], 10)(3)
    assert (both[0] != both[1]).any()
    assert (both[1] == Order(100, [8], 10)(3)[0]).all()


def test_batches_carry_what_their_order_says(make):
    source = make(numbered(17), [3, 4], 5)
    for update in (0, 1, 2, 3, 9, 10, 4, 4, 0):  # in order, ahead, back, again
        batch = source.next(None, update)
        expected = Order(17, [3, 4], 5)(update)
        assert batch.images.dtype == np.uint8
        assert batch.images.shape == (2, 5, 1, 1, 1)
        assert (batch.images[..., 0, 0, 0] == expected).all()
        assert batch.labels.dtype == np.int32
        assert (batch.labels == expected).all()
    assert make(numbered(17)._replace(labels=None), [3, 4], 5).next(None, 0).labels is None


def test_nothing_is_saved(make):
    source = make(numbered(17), [3, 4], 5)
    first = source.next(None, 2).images
    assert source.save() == {}
    assert source.metrics() == [{}, {}]
    other = make(numbered(17), [3, 4], 5)
    other.restore({})
    assert (other.next(None, 2).images == first).all()


@pytest.mark.parametrize(
    ("side", "seeds", "inner_steps"),
    [
        (28, 1, 10),  # 256 * 28 * 28 * 3 bytes are 0.57 MiB: 10 take 6
        (224, 1, 1),  # 36.75 MiB: one fits into 64, two do not
        (64, 7, 3),  # 7 * 3 MiB = 21: three fit
        (224, 2, 1),  # more than fits: still one
    ],
)
def test_inner_steps_stay_below_64_mib(make, side, seeds, inner_steps):
    images = np.broadcast_to(np.uint8(0), (256, side, side, 3))  # takes no memory
    assert make(Split(images, None), range(seeds), 256).inner_steps == inner_steps


class Decoded:
    """Images that are no array; number `bad` cannot be read."""

    shape = (8, 1, 1, 1)

    def __init__(self, bad: int = -1) -> None:
        self.bad = bad

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        if self.bad in indices:
            raise OSError("the disk is gone")
        return indices.astype(np.uint8).reshape(-1, 1, 1, 1)


def test_lazily_decoded_images_make_the_same_batches(make):
    source = make(Split(Decoded(), None), [5], 3)
    assert source.inner_steps == 1
    for update in (0, 1, 5, 6):
        assert (
            source.next(None, update).images[0, :, 0, 0, 0] == Order(8, [5], 3)(update)[0]
        ).all()


def test_an_error_in_the_thread_surfaces_each_time_and_ends_it(make):
    source = make(Split(Decoded(bad=2), None), [5], 8)
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            source.next(None, 0)
        assert threads() == 0


def test_close_ends_the_thread_wherever_it_is(make):
    source = make(numbered(50), [0, 1], 50)
    source.close()  # before it has started
    for update in (0, 0, 1):
        source.next(None, update)
        assert threads() == 1  # no other is left behind by going back
        source.close()
        source.close()
        assert threads() == 0


def test_a_batch_larger_than_the_set(make):
    with pytest.raises(UserError, match="--batch-size is 6, but there are 5 examples"):
        make(numbered(5), [0], 6)
    assert sorted(make(numbered(5), [0], 5).next(None, 0).images.ravel()) == [0, 1, 2, 3, 4]


def test_a_pool_is_all_that_its_seed_sees(make):
    """Each seed its own five examples, each once per epoch: batches of 7 in an epoch of 5."""
    pools = [np.arange(10, 15), np.arange(3, 8)]
    source = make(numbered(17), [0, 1], 7, pools=pools)
    seen = np.concatenate(
        [source.next(None, update).labels for update in range(5)], axis=1
    )  # [2, 35]
    for row, pool in zip(seen, pools, strict=True):
        assert (np.sort(row.reshape(7, 5), axis=1) == pool).all()
