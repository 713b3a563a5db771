"""Evaluation of agents: returns of whole episodes, and the GIF of one."""

import warnings
from pathlib import Path

import jax
import numpy as np

from missing_bits.envs.environments import Environments
from missing_bits.envs.steps import Player
from missing_bits.errors import UserError
from missing_bits.eval.evaluation import Evaluation, Headline, Learned
from missing_bits.pictures import episodes as pictures_of_episodes


def evaluation(envs: Environments, player: Player, episodes: int) -> Evaluation:
    """Plays with what was learned, and draws one episode.

    Args:
      envs: the environments that an agent learns from; it is judged in others of their kind.
      player: acts greedily.
      episodes: episodes of an evaluation.
    """

    def scores(learned: Learned, key: jax.Array, last: bool) -> dict[str, float]:
        return summary(envs.returns(player, learned, episodes, key))

    def pictures(learned: Learned, seed: int, folder: Path) -> None:
        frames = envs.record(player, learned, seed)
        try:
            pictures_of_episodes.gif(frames, folder / "episode.gif")
        except UserError as error:  # a run is worth more than its picture
            warnings.warn(f"No GIF of an episode of {envs.env_id}: {error}", stacklevel=2)

    protocol = {**envs.protocol, "episodes": episodes}
    headline = Headline("eval/return_mean")
    return Evaluation(headline, scores, pictures=pictures, protocol=protocol)


def summary(returns: np.ndarray) -> dict[str, float]:
    """Mean, deviation and range of episode returns [episodes]."""
    return {
        "eval/return_mean": float(np.mean(returns)),
        "eval/return_std": float(np.std(returns)),
        "eval/return_min": float(np.min(returns)),
        "eval/return_max": float(np.max(returns)),
    }
