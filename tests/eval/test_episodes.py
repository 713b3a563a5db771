"""What an evaluation says of its episodes, and the GIF of one."""

import types

import jax
import numpy as np
import pytest

from missing_bits.envs.steps import Player
from missing_bits.errors import UserError
from missing_bits.eval import episodes
from missing_bits.eval.evaluation import Headline


def test_summary_by_hand():
    """Mean 12 / 4 = 3; squared deviations 4 + 1 + 0 + 9 = 14, so the deviation is sqrt(14 / 4)."""
    assert episodes.summary(np.array([1.0, 2.0, 3.0, 6.0])) == {
        "eval/return_mean": 3.0,
        "eval/return_std": pytest.approx(np.sqrt(14 / 4)),
        "eval/return_min": 1.0,
        "eval/return_max": 6.0,
    }


def test_an_evaluation_plays_with_what_was_learned_and_draws_an_episode(tmp_path):
    player = Player(memory=lambda count: (), act=lambda *seen: (0, ()))
    key = jax.random.key(3)
    frame = np.zeros((8, 8, 3), np.uint8)

    def returns(by, learned, count, its_key):
        assert (by, learned, its_key) == (player, "learned", key)
        return np.arange(count, dtype=float)

    def record(by, learned, seed):
        assert (by, learned, seed) == (player, "learned", 5)
        return [(frame, 0.0), (frame, 1.0)]

    envs = types.SimpleNamespace(returns=returns, record=record, protocol={"time_limit": 9})
    evaluation = episodes.evaluation(envs, player, 4)
    assert evaluation.headline == Headline("eval/return_mean")
    scores = evaluation.scores("learned", key, False)
    assert scores == episodes.summary(np.array([0.0, 1.0, 2.0, 3.0]))
    assert evaluation.baselines(key) == {}
    assert evaluation.protocol == {"time_limit": 9, "episodes": 4}
    evaluation.pictures("learned", 5, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["episode.gif"]


def test_a_picture_that_fails_is_a_warning(tmp_path):
    """Training and its scores stay; the reason is said."""

    def record(by, learned, seed):
        yield np.zeros((8, 8, 3), np.uint8), 0.0
        raise UserError("--env=Maze-v0: render failed: RuntimeError: no display")

    envs = types.SimpleNamespace(env_id="Maze-v0", returns=None, record=record, protocol={})
    evaluation = episodes.evaluation(envs, None, 4)
    with pytest.warns(UserWarning, match=r"No GIF of an episode of Maze-v0: .* no display"):
        evaluation.pictures("learned", 5, tmp_path)
    assert not list(tmp_path.iterdir())
