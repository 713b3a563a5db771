"""Run folders written by hand, as the loop would.

Importable as `missing_bits.tests.results.written`.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

PNG = b"\x89PNG\r\n\x1a\n and more"
DEFAULTS = {"learning-rate": 0.002, "double": True, "hidden-sizes": [120, 84], "env-steps": 1000}


def write(
    folder: pathlib.Path,
    scores: Sequence[float] | None = (1.0,),
    *,
    task: str = "CartPole-v1",
    exp: str = "dqn",
    seed: int = 0,
    step: int | None = None,
    metric: str = "eval/return_mean",
    larger: bool = True,
    ended: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
    envs: Mapping[str, Any] | None = None,
    seeds: int = 1,
    **options: Any,
) -> pathlib.Path:
    """Writes a folder of a run and returns it.

    Args:
      folder: to make.
      scores: the headline of each seed; None for a run without result.
      task: environment.
      exp: experiment.
      seed: the first.
      step: budget units done; by default all.
      metric: the headline's name.
      larger: whether it is better.
      ended: what ended.json holds; None for no such file.
      config: what config.json holds otherwise.
      result: what result.json holds otherwise.
      envs: fields of the group of environments that are not the default.
      seeds: how many the run has, where there are no scores.
      **options: those that differ from the defaults, with underscores.
    """
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    chosen = {name.replace("_", "-"): value for name, value in options.items()}
    fields = {name.replace("-", "_"): value for name, value in (DEFAULTS | chosen).items()}
    group = {"env": task, "eval_episodes": 100, "env_kwargs": "", "wrappers": []} | dict(envs or {})
    of_group = {name.replace("_", "-"): value for name, value in (envs or {}).items()}
    done = fields["env_steps"] if step is None else step
    count = seeds if scores is None else len(scores)
    said = {
        "exp": exp,
        "config": {"envs": group, **fields},
        "run": {"seed": seed, "num_seeds": count, "dir": str(folder), "resume": False},
        "options": chosen | of_group,
        "subject": "env",
        "unit": "env_steps",
        "headline": {"name": metric, "larger_is_better": larger},
    }
    (folder / "config.json").write_text(json.dumps(said | dict(config or {})))
    if ended is not None:
        (folder / "ended.json").write_text(json.dumps(ended))
    rows = [
        {"step": at, "seed": seed + i, metric: score * at / done, "time/seconds": at / 10}
        for at in (done // 2, done)
        for i, score in enumerate(scores or [])
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if scores is not None:
        of_all = {
            "env_steps": done,
            metric: sum(scores) / count,
            "seeds": [{"seed": seed + i, metric: score} for i, score in enumerate(scores)],
            "wall_seconds": 12.5,
            "devices": ["cpu:cpu"],
            "versions": {"jax": "0.12.0"},
        }
        if count > 1:
            of_all |= {f"{metric}_low": min(scores), f"{metric}_high": max(scores)}
        (folder / "result.json").write_text(json.dumps(of_all | dict(result or {})))
    return folder
