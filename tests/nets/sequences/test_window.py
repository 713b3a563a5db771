"""What short convolutions see, by hand."""

import jax.numpy as jnp
import numpy as np

from missing_bits.nets.sequences import window


def test_windows_by_hand():
    """Inputs 1, 2, 3, 4 after 8, 9, three at once; 3 is the first after a reset."""
    x = jnp.array([1.0, 2, 3, 4]).reshape(1, 4, 1)
    reset = jnp.array([[False, False, True, False]])
    before = window.Recent(jnp.array([8.0, 9]).reshape(1, 2, 1))
    lags, recent = window.see(x, reset, before)
    assert [lag.ravel().tolist() for lag in lags] == [[1, 2, 3, 4], [9, 1, 0, 3], [8, 9, 0, 0]]
    assert recent.inputs.ravel().tolist() == [3, 4]
    lags, _ = window.see(x, None, before)
    assert [lag.ravel().tolist() for lag in lags] == [[1, 2, 3, 4], [9, 1, 2, 3], [8, 9, 1, 2]]


def test_a_reset_at_the_end_leaves_the_last_input_alone():
    x = jnp.array([1.0, 2]).reshape(1, 2, 1)
    _, recent = window.see(x, jnp.array([[False, True]]), window.initial(1, 4, 1))
    assert recent.inputs.ravel().tolist() == [0, 0, 2]


def test_a_window_of_one_step_remembers_nothing():
    x = jnp.ones((2, 3, 1))
    lags, recent = window.see(x, jnp.ones((2, 3), bool), window.initial(2, 1, 1))
    assert len(lags) == 1
    assert recent.inputs.shape == (2, 0, 1)
    lags, recent = window.see_step(x[:, 0], jnp.array([True, False]), recent)
    np.testing.assert_array_equal(lags[0], x[:, 0])
    assert recent.inputs.shape == (2, 0, 1)
