"""The protocol of an evaluation: what must be the same for two agents' returns to be compared."""

from typing import Any

import gymnasium as gym

from missing_bits.envs.episodes import Judging
from missing_bits.envs.gymnasium_envs import Recipe


def of(recipe: Recipe, env: gym.Env, judging: Judging) -> dict[str, Any]:
    """The protocol by which agents are judged in an environment, as JSON.

    What an environment says of itself stands in `protocol` of its functional environment, as
    MinAtar's games have it, or among the arguments that it is registered with, as Atari's do. Of
    one that says nothing, the actions are those of its space, and none is sticky.

    Args:
      recipe: what the environment is made of.
      env: the environment itself.
      judging: how episodes are played.

    Returns:
      env, env_kwargs, wrappers: as they were given.
      termination: what ends an episode, apart from limits of time.
      time_limit: environment steps after which every episode is truncated, or None.
      cut_at: environment steps after which only episodes of evaluations are, or None.
      action_set: which actions there are.
      stickiness: the probability that the last action is repeated in place of the one chosen.
      epsilon: the probability of a random action.
      And what else the environment says of itself.
    """
    arguments = env.spec.kwargs if env.spec else {}
    limit = env.spec.max_episode_steps if env.spec else None
    is_cut = judging.steps > 0 and (limit is None or judging.steps < limit)
    count = int(env.action_space.n)
    action_set = f"{count} actions"
    if "full_action_space" in arguments:
        kind = "full" if arguments["full_action_space"] else "minimal"
        action_set = f"{kind}, {count} actions"
    func_env = getattr(env.unwrapped, "func_env", None)
    return {
        "env": recipe.env,
        "env_kwargs": dict(recipe.kwargs),
        "wrappers": list(recipe.wrappers),
        "termination": "the environment's own",
        "time_limit": limit,
        "cut_at": judging.steps if is_cut else None,
        "action_set": action_set,
        "stickiness": float(arguments.get("repeat_action_probability", 0.0)),
        "epsilon": judging.epsilon,
        **getattr(func_env, "protocol", {}),
    }
