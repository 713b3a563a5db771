"""What is remembered belongs to the same arrays, and to nothing that merely equals them."""

import numpy as np

from missing_bits.eval.remembered import Remembered


def test_the_last_result_stands_for_the_same_arrays_alone():
    calls = []

    def total(tree):
        calls.append(tree)
        return sum(float(np.sum(leaf)) for leaf in tree.values())

    remembered = Remembered(total)
    one = np.ones(3)
    other = np.full(2, 5.0)
    assert remembered({"a": one, "b": other}) == 13
    assert remembered({"a": one, "b": other}) == 13  # another dictionary of the same arrays
    assert len(calls) == 1
    assert remembered({"a": one.copy(), "b": other}) == 13
    assert len(calls) == 2
    assert remembered({"a": one}) == 3
    assert remembered({"a": one, "b": other}) == 13  # the last result alone is kept
    assert len(calls) == 4


def test_nothing_is_remembered_before_the_first_call():
    assert Remembered(lambda tree: 7)({}) == 7
