"""Settings in words, and the command that repeats a run: it gives the same configuration again."""

import json
import shlex

import pytest

from missing_bits import options
from missing_bits.agents import dqn
from missing_bits.commands import command_line
from missing_bits.experiments import find
from missing_bits.loop.config import RunConfig
from missing_bits.loop.train import train
from missing_bits.results import folders, settings
from missing_bits.ssl import barlow_twins
from missing_bits.supervised import finetune
from missing_bits.tests.results.written import write


def of(folder):
    (run,) = folders.find([str(folder)])
    return run


def parsed(command):
    """What the command line makes of a command."""
    words = shlex.split(command)
    assert words[:2] == ["python", "run.py"]
    return command_line.parse(words[2:])


def test_the_command_repeats_a_run(tmp_path):
    """Of a real run: on an environment with a preset, from which one option departs again."""
    chosen = dqn.PRESETS["Acrobot-v1"] | dqn.TINY | {"env": "Acrobot-v1", "double": False}
    chosen |= {"replay_capacity": dqn.Config().replay_capacity, "eval_steps": 20}
    config = options.make(dqn.Config, **chosen)
    asked = RunConfig(dir=str(tmp_path / "run"), seed=3, num_seeds=2, log_period=24)
    with pytest.warns(UserWarning, match="cut at --eval-steps=20"):
        train(dqn.DQN, config, asked, name="dqn")
    run = of(tmp_path)
    assert run.task == "Acrobot-v1"
    assert "env" not in settings.changed(run)
    assert settings.changed(run)["replay-capacity"] == 50_000  # the preset has another
    again = parsed(settings.command(run))
    assert again.config == config
    assert (again.run.seed, again.run.num_seeds, again.run.log_period) == (3, 2, 24)
    assert (again.run.dir, again.run.resume) == ("", False)


def folder_of(path, exp, config, subject, defaults):
    """A run folder with a method's configuration, as the loop writes it."""
    said = {
        "exp": exp,
        "config": options.to_json(config),
        "run": options.to_json(RunConfig()),
        "options": options.differing(config, defaults),
        "subject": subject,
    }
    path.mkdir()
    (path / "config.json").write_text(json.dumps(said))
    return path


@pytest.mark.parametrize(
    ("exp", "chosen", "changed"),
    [
        ("lora", {"method": "lora"}, {}),
        ("lora", {"method": "full"}, {"method": "full"}),
        ("finetune", {}, {}),
        ("finetune", {"method": "lora"}, {"method": "lora"}),
    ],
)
def test_settings_of_the_tables_row_are_its_defaults(exp, chosen, changed, tmp_path):
    config = options.make(finetune.Config, init_from="a run", **chosen)
    run = of(folder_of(tmp_path / "run", exp, config, "data", finetune.Config()))
    assert settings.changed(run) == {"init-from": "a run"} | changed
    assert parsed(settings.command(run)).config == config


@pytest.mark.parametrize(
    ("exp", "task", "chosen", "changed"),
    [
        ("gat", "cora", {}, {}),  # a group of options
        ("gat", "cora", {"optimizer": {"learning_rate": 0.1}}, {"optimizer.learning-rate": 0.1}),
        ("rainbow", "jax/Breakout-v1", {}, {}),  # a preset beside settings of the row
        ("rainbow", "jax/Breakout-v1", {"batch_size": 64}, {"batch-size": 64}),  # as the row has it
        ("rainbow", "CartPole-v1", {"learning_rate": 2e-3}, {"learning-rate": 2e-3}),
        ("iqn", "jax/Breakout-v1", {}, {}),  # a preset of the row
    ],
)
def test_presets_and_settings_of_a_row_together(exp, task, chosen, changed, tmp_path):
    found = find(exp)
    subject = found.method.subject
    config = options.replace(found.config(task), {subject: task, **chosen})
    preset = getattr(found.module, "PRESETS", {}).get(task, {})
    plain = options.make(found.module.Config, **preset)
    run = of(folder_of(tmp_path / "run", exp, config, subject, plain))
    assert settings.changed(run) == changed
    assert parsed(settings.command(run)).config == config


def test_groups_and_lists_on_the_command_line(tmp_path):
    config = options.make(
        barlow_twins.Config, data="folder:a $b'c", views={"flip": 0.0}, projector_sizes=(8, 8)
    )
    run = of(folder_of(tmp_path / "run", "barlow_twins", config, "data", barlow_twins.Config()))
    assert settings.words(settings.changed(run)) == "projector-sizes=8,8 views.flip=0.0"
    assert parsed(settings.command(run)).config == config


def test_a_run_that_does_not_say_is_repeated_from_its_file(tmp_path):
    config = options.make(dqn.Config, learning_rate=1e-3)
    folder = folder_of(tmp_path / "a run", "dqn", config, "env", dqn.Config())
    said = json.loads((folder / "config.json").read_text())
    del said["options"]
    (folder / "config.json").write_text(json.dumps(said))
    command = settings.command(of(folder))
    assert command == f"python run.py '--config={folder}/config.json'"
    assert parsed(command).config == config


def test_a_command_is_quoted(tmp_path):
    run = of(write(tmp_path / "a", task="'; rm -rf ~ #", exp="dqn"))
    assert shlex.split(settings.command(run))[3] == "--env='; rm -rf ~ #"


def test_nothing_is_known_of_a_damaged_run(tmp_path):
    folder = write(tmp_path / "a")
    (folder / "config.json").write_text("{")
    assert settings.command(of(folder)) == ""


def test_what_differs_between_runs(tmp_path):
    """An option that one run has changed is compared with the default of the others."""
    write(tmp_path / "1", task="CartPole-v1")
    write(tmp_path / "2", task="Acrobot-v1", learning_rate=1e-3, double=False)
    write(tmp_path / "3", task="Acrobot-v1", double=False, learning_rate=0.002)
    runs = folders.find([str(tmp_path)])
    assert settings.differing(runs) == ["learning-rate", "double"]
    assert settings.differing(runs[1:]) == ["learning-rate"]
    assert [run.value("learning-rate") for run in runs] == [0.002, 0.001, 0.002]


def test_what_differs_between_runs_of_an_older_version(tmp_path):
    for name, rate in (("1", 0.1), ("2", 0.2)):
        folder = write(tmp_path / name, learning_rate=rate, task=name, envs={"eval_episodes": rate})
        said = json.loads((folder / "config.json").read_text())
        del said["options"]
        (folder / "config.json").write_text(json.dumps(said))
    runs = folders.find([str(tmp_path)])
    assert settings.differing(runs) == ["envs.eval-episodes", "learning-rate"]


def test_values_by_the_names_of_options(tmp_path):
    run = of(write(tmp_path / "a", seed=4, envs={"eval_episodes": 7}))
    assert run.value("eval-episodes") == 7  # in a group without a prefix
    assert run.value("env") == "CartPole-v1"
    assert run.value("run.seed") == 4
    assert run.value("hidden-sizes") == [120, 84]
    assert run.value("nothing") is run.value("") is run.value("learning-rate.x") is None


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("double", True, "double"),
        ("views.flip", False, "views.no-flip"),
        ("sizes", [1, 2], "sizes=1,2"),
        ("rate", 1e-4, "rate=0.0001"),
        ("name", "a b", "name=a b"),
    ],
)
def test_options_in_words(name, value, word):
    assert settings.word(name, value) == word
