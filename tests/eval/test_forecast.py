"""Forecasts without a network: by hand, and a series that a linear model knows."""

import numpy as np
import pytest

from missing_bits.eval import forecast


def test_repeating_by_hand():
    """Errors 1 and 3: (1 + 9) / 2."""
    inputs = np.array([[[1.0], [2.0]]])
    assert forecast.naive(inputs, np.array([[[2.0], [5.0]]])) == 5


def test_a_linear_series_is_forecast_and_noise_is_not():
    """A wave is the last two steps' combination; noise has its variance as error."""
    wave = np.sin(0.3 * np.arange(400))
    windows = np.lib.stride_tricks.sliding_window_view(wave, 21)[:, :, None]
    inputs, targets = windows[:, :20], windows[:, 1:]
    assert forecast.linear(inputs[:200], targets[:200], inputs[300:], targets[300:]) < 0.02
    assert forecast.naive(inputs[300:], targets[300:]) > 0.04
    noise = np.random.default_rng(0).normal(size=(2, 300, 20, 1))
    error = forecast.linear(noise[0][:, :10], noise[0][:, 10:], noise[1][:, :10], noise[1][:, 10:])
    assert error == pytest.approx(1, abs=0.1)
