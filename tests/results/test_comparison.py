"""Comparing runs: what is a group, what is said first, figures by hand."""

import json

import gymnasium
import numpy as np
import pytest

from missing_bits.errors import UserError
from missing_bits.results import comparison, folders, references
from missing_bits.tests.results.written import write

RUNS = "CartPole-v1: the protocol differs: --eval-episodes is"


def compared(place, **settings):
    return comparison.compare(folders.find([str(place)]), **settings)


def notes(place):
    return "\n".join(compared(place).notes)


def test_groups_have_the_same_settings_and_put_their_seeds_together(tmp_path):
    write(tmp_path / "a", [1.0, 2.0])
    write(tmp_path / "b", [9.0, 8.0], learning_rate=1e-3)
    write(tmp_path / "c", [3.0, 6.0], seed=2)
    (task,) = compared(tmp_path).tasks
    best, reference = task.groups
    assert (task.name, task.headline.name, task.common) == ("CartPole-v1", "eval/return_mean", "")
    assert (best.letter, best.label, best.seeds) == ("A", "learning-rate=0.001", {0: 9.0, 1: 8.0})
    assert (reference.letter, reference.label) == ("B", "defaults")
    assert reference.seeds == {0: 1.0, 1: 2.0, 2: 3.0, 3: 6.0}
    assert task.reference is reference
    # The mean of 1, 2, 3, 6 is 3, of the middle two 2.5; all of 9 and 8 are above all of these.
    assert reference.mean.value == 3
    assert reference.middle.value == 2.5
    assert (best.difference.value, best.better.value, best.paired) == (8.5 - 3, 1.0, False)
    assert best.difference.low < 5.5 < best.difference.high


def test_less_may_be_better(tmp_path):
    for name, scores in (("a", [3.0, 2.0]), ("b", [1.0, 1.5])):
        folder = write(tmp_path / name, scores, metric="eval/bits_per_byte", larger=False)
        said = json.loads((folder / "config.json").read_text())
        said["config"]["double"] = name
        (folder / "config.json").write_text(json.dumps(said))
    (task,) = compared(tmp_path).tasks
    assert [group.mean.value for group in task.groups] == [1.25, 2.5]
    assert task.groups[0].better.value == 1.0


def test_the_baseline_is_the_first_or_the_one_named(tmp_path):
    write(tmp_path / "a", [1.0])
    named = write(tmp_path / "b", [2.0], double=False)
    (task,) = compared(tmp_path).tasks
    assert task.reference.label == "defaults"
    (task,) = compared(tmp_path, baseline=named).tasks
    assert task.reference.label == "no-double"
    with pytest.raises(UserError, match=r"--baseline=.*is not the folder of a finished run"):
        compared(tmp_path, baseline=tmp_path / "c")


def test_seeds_are_paired_only_where_data_are_shared(tmp_path):
    """The differences are 1, 1, 2 by seed, although the seeds themselves are far apart."""

    def task(name, digests):
        for i, (scores, digest) in enumerate(zip(([1, 5, 9], [2, 6, 11]), digests, strict=True)):
            data = {} if digest is None else {"data_digest": digest}
            write(tmp_path / name / str(i), scores, double=bool(i), result=data)
        return compared(tmp_path / name).tasks[0].groups[0]

    shared = task("shared", ("abc", "abc"))
    assert shared.paired
    assert shared.difference.value == pytest.approx(4 / 3)
    assert shared.difference.low >= 1
    assert shared.better.value == 1.0
    for name, digests in (("other", ("abc", "abd")), ("agents", (None, None))):
        group = task(name, digests)
        assert not group.paired
        assert group.difference.low < 0
        assert group.better.value == pytest.approx(6 / 9)  # 2 > 1, 6 > 1, 6 > 5, 11 > 1, 5, 9


def test_tasks_and_headlines_are_not_compared_with_each_other(tmp_path):
    write(tmp_path / "a", task="CartPole-v1")
    write(tmp_path / "b", task="Acrobot-v1")
    write(tmp_path / "c", task="CartPole-v1", metric="eval/other")
    found = compared(tmp_path)
    assert [task.name for task in found.tasks] == ["CartPole-v1", "Acrobot-v1", "CartPole-v1"]
    assert [task.groups[0].letter for task in found.tasks] == ["A", "B", "C"]
    assert "CartPole-v1: headlines differ, so that there are 2 tables" in "\n".join(found.notes)


def test_what_is_mixed_is_said_first(tmp_path):
    write(tmp_path / "a", [1.0] * 5)
    write(tmp_path / "b", [2.0] * 5, env_steps=2000, envs={"eval_episodes": 10})
    said = notes(tmp_path)
    assert "CartPole-v1: budgets differ: 2,000 env steps (A), 1,000 env steps (B)." in said
    assert f"{RUNS} 10 (A), 100 (B)." in said
    assert "fewer" not in said
    assert "versions" not in said


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"data_digest": "1234567890abcdef"}, "the data differ, by their hashes: "),
        ({"versions": {"jax": "0.10.2"}}, "versions differ: jax 0.12.0 (1 run), 0.10.2 (1 run)."),
        ({"versions": {}}, "versions differ: jax 0.12.0 (1 run), unknown (1 run)."),
        ({"devices": ["gpu:H"]}, "devices differ: cpu:cpu (1 run), gpu:H (1 run)."),
    ],
)
def test_mixed_data_versions_and_devices(result, words, tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", seed=1, result=result)
    assert words in notes(tmp_path)


def test_protocols_are_told_and_so_is_where_they_differ(tmp_path):
    """By what runs were judged by, where all say it; options only say what was asked for."""

    def judged(name, episodes, **settings):
        protocol = {"time_limit": 500, "stickiness": 0.0, "episodes": episodes, "seeds": [0, 1]}
        envs = {"eval_episodes": episodes}
        write(tmp_path / name, [1.0, 2.0], result={"protocol": protocol}, envs=envs, **settings)

    said = "time limit 500 steps, stickiness 0, episodes 10, seeds 0-1"
    judged("a", 10)
    judged("b", 10, learning_rate=1e-3)
    found = compared(tmp_path)
    assert found.tasks[0].protocols == {said: "A, B"}
    assert not any("protocol" in note for note in found.notes)
    judged("c", 20, learning_rate=1e-4)
    found = compared(tmp_path)
    assert list(found.tasks[0].protocols.values()) == ["A, B", "C"]
    assert "CartPole-v1: the protocol differs: episodes is 10 (A, B), 20 (C)." in found.notes
    assert not any("--eval-episodes" in note for note in found.notes)
    write(tmp_path / "of an older version", [0.5], learning_rate=1e-5)
    found = compared(tmp_path)
    assert f"{RUNS} 10 (A, B), 20 (C), 100 (D)." in found.notes
    assert list(found.tasks[0].protocols.values()) == ["A, B", "C"]


def test_a_run_cut_short_by_its_budget_is_not_hidden(tmp_path):
    """The same settings, and fewer steps done: the budget within a group differs."""
    write(tmp_path / "a")
    write(tmp_path / "b", seed=1, step=500)
    assert "budgets differ: 1,000 env steps (A), 500 env steps (A)." in notes(tmp_path)


def test_a_seed_that_several_runs_have_counts_once(tmp_path):
    write(tmp_path / "a", [1.0, 2.0])
    write(tmp_path / "b", [2.0, 3.0], seed=1)
    write(tmp_path / "c", [7.0], seed=1)
    found = compared(tmp_path)
    assert found.tasks[0].groups[0].seeds == {0: 1.0, 1: 2.0, 2: 3.0}
    said = "\n".join(found.notes)
    assert "A: several runs have the same seed; the first one counts." in said
    assert "A: the same settings and seed reached different figures." in said


def test_what_is_left_out_is_counted(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", None)
    write(tmp_path / "c", None, ended={"state": "failed", "why": "x"})
    write(tmp_path / "d", None, ended={"state": "pruned", "why": "x"})
    assert "Left out of 4 runs: 1 killed, 1 failed, 1 pruned." in notes(tmp_path)
    with pytest.raises(UserError, match=r"none of 1 runs is finished with a score.*1 failed"):
        compared(tmp_path / "c")


def test_few_seeds_are_said(tmp_path):
    write(tmp_path / "a", [1.0] * 4)
    assert "A: fewer than 5 seeds" in notes(tmp_path)


def test_curves_are_means_over_seeds_where_all_have_a_figure(tmp_path):
    """Rows of the first run are at 500 and 1,000, of the second only at the end."""
    write(tmp_path / "a", [2.0, 4.0])
    folder = write(tmp_path / "b", [9.0], seed=2)
    (task,) = compared(tmp_path / "a").tasks
    curve = comparison.curve(task.groups[0], task)
    assert curve.steps.tolist() == [500, 1000]
    assert curve.mean.tolist() == [1.5, 3.0]
    assert curve.low.tolist() == [1.0, 2.0]
    assert curve.high.tolist() == [2.0, 4.0]
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(rows[1] + '\nno row\n{"step": 1, "seed": [0]}\n')
    (task,) = compared(tmp_path).tasks
    curve = comparison.curve(task.groups[0], task)
    assert curve.steps.tolist() == [1000]
    assert curve.mean.tolist() == [5.0]
    assert (curve.label, curve.seeds) == ("dqn", 3)


def test_a_run_without_rows_has_no_curve(tmp_path):
    folder = write(tmp_path / "a")
    (folder / "metrics.jsonl").write_text("")
    (task,) = compared(tmp_path).tasks
    assert comparison.curve(task.groups[0], task) is None


# Over tasks.


def test_profiles_of_settings_that_ran_on_all_tasks(tmp_path):
    """Normalized by hand: 248.8 on CartPole is (248.8 - 22.6) / (475 - 22.6) = 0.5."""
    write(tmp_path / "a", [248.8, 475.0])
    write(tmp_path / "b", [-499.2, -100.0], task="Acrobot-v1")
    write(tmp_path / "c", [475.0, 475.0], double=False)
    write(tmp_path / "d", [7.0, 7.0], task="Other-v0")
    found = compared(tmp_path)
    assert list(found.profiles) == ["dqn"]
    share = dict(zip(found.thresholds.round(2).tolist(), found.profiles["dqn"].share, strict=True))
    assert share[-0.1] == 1
    assert share[0.25] == (1 + 0.5) / 2
    assert share[0.75] == (0.5 + 0.5) / 2
    assert share[1.1] == 0
    assert "on CartPole-v1, Acrobot-v1: 0 is random play" in found.about_profiles


@pytest.mark.parametrize(
    ("folders_of", "words"),
    [
        ([{"task": "Other-v0"}], "needs reference scores"),
        ([{"metric": "eval/accuracy"}], "needs reference scores"),
        ([{"envs": {"env_kwargs": '{"sutton_barto_reward": true}'}}], "needs reference scores"),
        ([{"envs": {"wrappers": ["mine:reward"]}}], "needs reference scores"),
        ([{}, {"task": "Acrobot-v1", "double": False}], "no settings ran on all of"),
        ([{"config": {"options": None}}], "older version"),
    ],
)
def test_why_there_are_no_profiles(folders_of, words, tmp_path):
    for i, settings in enumerate(folders_of):
        write(tmp_path / str(i), **settings)
    found = compared(tmp_path)
    assert found.profiles == {}
    assert found.about_profiles.startswith("No performance profile: ")
    assert words in found.about_profiles


@pytest.mark.parametrize("name", references.REFERENCES)
def test_good_play_is_what_gymnasium_says(name):
    assert references.REFERENCES[name].good == gymnasium.spec(name).reward_threshold


@pytest.mark.parametrize(
    ("name", "episodes", "tolerance"), [("CartPole-v1", 100, 4), ("Acrobot-v1", 5, 15)]
)
def test_random_play_is_what_is_stated(name, episodes, tolerance):
    """Of 100 episodes of CartPole, whose deviation is 12, the mean has an error of 1.2."""
    environment = gymnasium.make(name)
    returns = []
    for seed in range(episodes):
        environment.reset(seed=seed)
        environment.action_space.seed(seed)
        ended = False
        returns.append(0.0)
        while not ended:
            action = environment.action_space.sample()
            _, reward, terminated, truncated, _ = environment.step(action)
            returns[-1] += reward
            ended = terminated or truncated
    assert np.mean(returns) == pytest.approx(references.REFERENCES[name].random, abs=tolerance)


# Sweeps.


def test_a_headline_against_each_option_of_a_sweep(tmp_path):
    sweep = tmp_path / "sweep"
    for i, (rate, double) in enumerate([(0.01, True), (0.002, False), (0.002, True), (1e-4, True)]):
        write(
            sweep / "trials" / str(i), [10.0 * i, 10.0 * i + 2], learning_rate=rate, double=double
        )
    write(tmp_path / "apart", double=False)
    (sweep / "sweep.json").write_text("{}")
    rates, doubles = compared(tmp_path).effects
    assert (rates.option, doubles.option) == ("learning-rate", "double")
    assert (rates.sweep.name, rates.task) == ("sweep", "CartPole-v1")
    # In the order of the numbers; each trial's figure is the mean of its two seeds.
    assert list(rates.points.items()) == [
        ("0.0001", [31.0]),
        ("0.002", [11.0, 21.0]),
        ("0.01", [1.0]),
    ]
    assert doubles.points == {"false": [11.0], "true": [1.0, 21.0, 31.0]}


def test_what_confirms_a_winner_stands_apart(tmp_path):
    """Its seeds are fresh; those of the trial are what it was chosen on."""
    sweep = tmp_path / "sweep"
    write(sweep / "trials" / "0", [9.0, 9.0], learning_rate=0.1)
    write(sweep / "trials" / "1", [1.0, 1.0], learning_rate=0.2)
    write(sweep / "confirm-2", [7.0, 7.0], seed=2, learning_rate=0.1)
    (sweep / "sweep.json").write_text("{}")
    found = compared(sweep)
    assert [(group.label, group.mean.value) for group in found.tasks[0].groups] == [
        ("learning-rate=0.1", 9.0),
        ("learning-rate=0.1 confirmed", 7.0),
        ("learning-rate=0.2", 1.0),
    ]
    assert found.effects[0].points == {"0.1": [9.0], "0.2": [1.0]}
    assert "dqn learning-rate=0.1 confirmed" in found.profiles
    assert len(found.profiles) == 3


def test_of_many_groups_the_first_are_named(tmp_path):
    """Letters go on after Z."""
    for i in range(28):
        write(tmp_path / str(i), [28.0 - i], learning_rate=i / 100)
    found = compared(tmp_path)
    (task,) = found.tasks
    assert [group.letter for group in task.groups][-3:] == ["Z", "AA", "AB"]
    assert found.notes[-1].startswith("A, B, C, D, E, F, G, H and 20 more: fewer than 5 seeds")


def test_the_same_run_twice_is_told_and_does_not_disagree(tmp_path):
    write(tmp_path / "a", [1.0, 2.0])
    write(tmp_path / "b", [1.0, 2.0])
    said = notes(tmp_path)
    assert "the first one counts" in said
    assert "different figures" not in said
