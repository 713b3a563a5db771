"""Proposals are pure, and TPE finds what is good."""

import statistics

import pytest

from missing_bits.sweeps import samplers, space
from missing_bits.sweeps.samplers import Outcome

TYPES = {"rate": float, "kind": str}
AXES = [space.parse("rate=0..1", TYPES), space.parse("kind=good,bad", TYPES)]


def test_random_settings_follow_from_seed_and_number():
    drawn = [samplers.random(AXES, seed, number) for seed in (0, 1) for number in range(20)]
    assert drawn == [samplers.random(AXES, seed, number) for seed in (0, 1) for number in range(20)]
    assert len({one["rate"] for one in drawn}) > 35


def height(settings):
    return (float(settings["rate"]) - 0.3) ** 2 + (settings["kind"] == "bad")


def search(seed, larger):
    sign = 1 if larger else -1
    outcomes = []
    for number in range(30):
        settings = samplers.tpe(AXES, seed, number, outcomes, larger)
        outcomes.append(Outcome(settings, -sign * height(settings), "finished"))
    return [height(outcome.settings) for outcome in outcomes]


@pytest.mark.parametrize("larger", [True, False])
def test_tpe_comes_to_where_scores_are_good(larger):
    pytest.importorskip("optuna")
    late = statistics.median(search(0, larger)[15:])
    blind = [height(samplers.random(AXES, 0, number)) for number in range(200)]
    assert late < 0.2 * statistics.median(blind)


def test_tpe_follows_from_seed_number_and_outcomes():
    pytest.importorskip("optuna")
    before = [
        Outcome({"rate": f"0.{i}", "kind": "good"}, float(i), "finished") for i in range(1, 9)
    ]
    before += [
        Outcome({"rate": "0.5", "kind": "bad"}, None, "failed"),
        Outcome({"rate": "0.6", "kind": "bad"}, 0.5, "pruned"),
        Outcome({"rate": "0.7", "kind": "bad"}, None, "open"),
    ]
    asked = samplers.tpe(AXES, 0, 11, before, True)
    assert asked == samplers.tpe(AXES, 0, 11, before, True)
    assert asked != samplers.tpe(AXES, 1, 11, before, True)
    assert all(axis.allows(asked[axis.option]) for axis in AXES)


def test_without_optuna_one_is_told_what_to_do(monkeypatch):
    import builtins

    from missing_bits.errors import UserError

    plain = builtins.__import__

    def refuse(name, *rest, **more):
        if name == "optuna":
            raise ImportError(name)
        return plain(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"pip install -e '\.\[sweep\]'"):
        samplers.check_tpe()
