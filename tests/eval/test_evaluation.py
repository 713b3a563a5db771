"""Evaluations as values: narrowed to a part, joined, under another headline."""

import dataclasses

import jax
import numpy as np
import pytest

from missing_bits.eval.evaluation import Evaluation, Headline
from missing_bits.loop import train

KEY = jax.random.key(0)


def scoring(name, times=1):
    """Return an evaluation that scores, draws and compares under a name."""

    def scores(learned, key, last):
        dear = {f"eval/{name}_dear": 2.0 * learned} if last else {}
        return {f"eval/{name}": float(times * learned), **dear}

    def baselines(key):
        return {f"baseline/{name}": float(jax.random.uniform(key))}

    def pictures(learned, seed, folder):
        (folder / f"{name}.txt").write_text(f"{learned} {seed}")

    return Evaluation(Headline(f"eval/{name}"), scores, baselines, pictures)


def test_scores_alone_make_an_evaluation(tmp_path):
    """It has no baselines and draws nothing."""
    evaluation = Evaluation(Headline("eval/loss", larger_is_better=False), scoring("loss").scores)
    assert evaluation.baselines(KEY) == {}
    evaluation.pictures(1, 0, tmp_path)
    assert not list(tmp_path.iterdir())
    assert Headline("eval/accuracy").larger_is_better


def test_of_judges_a_part_of_what_was_learned(tmp_path):
    whole = scoring("part")
    evaluation = whole.of(lambda learned: learned["part"])
    assert evaluation.scores({"part": 3}, KEY, False) == {"eval/part": 3.0}
    assert evaluation.scores({"part": 3}, KEY, True) == {"eval/part": 3.0, "eval/part_dear": 6.0}
    evaluation.pictures({"part": 3}, 7, tmp_path)
    assert (tmp_path / "part.txt").read_text() == "3 7"
    assert evaluation.baselines(KEY) == whole.baselines(KEY)
    assert evaluation.headline == whole.headline


def test_joined_evaluations_give_what_each_gives_alone(tmp_path):
    parts = [scoring("a"), scoring("b", 10).headed("eval/b", False), scoring("c", 100)]
    joined = parts[0].join(*parts[1:])
    assert joined.headline == Headline("eval/a")
    assert joined.scores(2, KEY, False) == {"eval/a": 2.0, "eval/b": 20.0, "eval/c": 200.0}
    assert set(joined.scores(2, KEY, True)) > set(joined.scores(2, KEY, False))
    expected = float(jax.random.uniform(KEY))
    assert joined.baselines(KEY) == {f"baseline/{name}": expected for name in "abc"}
    joined.pictures(2, 0, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "b.txt", "c.txt"}


def test_what_joined_evaluations_compare_with_is_told_together():
    plain = scoring("a")
    told = [dataclasses.replace(scoring(name), against=f"some {name}") for name in "bc"]
    assert plain.against == ""
    assert plain.join(scoring("d")).against == ""
    assert plain.join(*told).against == "some b, some c"
    assert told[0].of(lambda learned: learned).headed("eval/x").against == "some b"


def test_the_last_line_tells_what_all_of_them_want_told():
    one = dataclasses.replace(scoring("one"), told=("eval/one_dear", "baseline/judge"))
    other = dataclasses.replace(scoring("other"), told=("eval/other_dear", "eval/never_made"))
    joined = one.join(other).at_last().drawing(lambda *_: None)
    scores = joined.scores(3, KEY, True)
    baselines = {"baseline/random_one": 1.0, "baseline/random_other": 2.0, "baseline/judge": 0.5}
    line = ", ".join(train._told(scores | baselines, baselines, "eval/one", joined.told))
    assert line == ("eval/one 3 (random 1), eval/one_dear 6, baseline/judge 0.5, eval/other_dear 6")


def test_two_evaluations_may_not_give_one_name():
    with pytest.raises(AssertionError, match="two evaluations give eval/a"):
        scoring("a").join(scoring("b"), scoring("a")).scores(np.float32(1), KEY, False)
    with pytest.raises(AssertionError, match="two evaluations give baseline/a"):
        scoring("a").join(scoring("a")).baselines(KEY)


def test_headed_changes_the_headline_alone():
    evaluation = scoring("a")
    other = evaluation.headed("eval/b", larger_is_better=False)
    assert other.headline == Headline("eval/b", False)
    assert evaluation.headed("eval/b").headline == Headline("eval/b", True)
    assert other.scores is evaluation.scores
