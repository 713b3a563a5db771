"""Forecasts that need no network: repeating, and a linear model of the last few steps.

Shapes: N series, T steps, F features.
"""

import numpy as np

_LAGS = 16  # steps that the linear model sees, at most
_RIDGE = 1e-3  # of the squares of weights, for each example
_ROWS = 100_000  # steps that the linear model learns from, at most


def naive(inputs: np.ndarray, targets: np.ndarray) -> float:
    """The mean squared error of repeating what is there.

    Args:
      inputs: [N, T, F].
      targets: what comes later, [N, T, F].
    """
    return float(np.mean(np.square(targets - inputs, dtype=np.float64)))


def linear(
    train_inputs: np.ndarray,
    train_targets: np.ndarray,
    test_inputs: np.ndarray,
    test_targets: np.ndarray,
) -> float:
    """The mean squared error of ridge regression on the last 16 steps of a series.

    Steps before its beginning are zeros, as the network has none either.

    Args:
      train_inputs: [N, T, F].
      train_targets: what comes later, [N, T, F].
      test_inputs: [M, T, F].
      test_targets: [M, T, F].
    """
    # Windows of training overlap: as many as hold enough steps will do.
    every = max(1, train_inputs.shape[0] * train_inputs.shape[1] // _ROWS)
    x = _lagged(train_inputs[::every])
    y = train_targets[::every].reshape(len(x), -1).astype(np.float64)
    gram = x.T @ x + _RIDGE * len(x) * np.diag([0.0] + [1.0] * (x.shape[1] - 1))
    weights = np.linalg.solve(gram, x.T @ y)
    off = test_targets.reshape(-1, y.shape[1]) - _lagged(test_inputs) @ weights
    return float(np.mean(np.square(off)))


def _lagged(inputs: np.ndarray) -> np.ndarray:
    """1 and the last steps, for each step of each series: float64 [N T, 1 + lags F]."""
    count, length, features = inputs.shape
    lags = min(_LAGS, length)
    padded = np.pad(inputs.astype(np.float64), ((0, 0), (lags - 1, 0), (0, 0)))
    seen = [padded[:, lags - 1 - lag : lags - 1 - lag + length] for lag in range(lags)]
    flat = np.concatenate(seen, axis=2).reshape(count * length, lags * features)
    return np.concatenate([np.ones((len(flat), 1)), flat], axis=1)
