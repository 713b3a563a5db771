"""The door: what it lists and explains, and one clear line for every mistake."""

import fcntl
import importlib.metadata
import itertools
import json
import shutil
import subprocess
import sys
import tomllib
import types
import warnings
from typing import Any, NamedTuple

import gymnasium
import pytest

from missing_bits import options, run
from missing_bits.agents import dqn
from missing_bits.errors import UserError
from missing_bits.experiments import ALIASES, COMMANDS, EXPERIMENTS, find
from missing_bits.generative import gan
from missing_bits.loop.config import RunConfig


@pytest.fixture
def refuses(capsys):
    """Return the function that runs a command line and insists on one line of error.

    It must name all words, and is returned.
    """

    def refuses(arguments, *words):
        status = run.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert status == 2, said
        assert said.out == ""
        lines = said.err.splitlines()
        assert len(lines) == 1, said.err
        assert lines[0].startswith("error: ")
        for word in words:
            assert str(word) in lines[0], f"{word!r} is not in {lines[0]!r}"
        return lines[0]

    return refuses


@pytest.fixture
def earlier(uninterrupted, hashes, tmp_path):
    """Return the folder of an earlier run, in which the test must change nothing."""
    folder = shutil.copytree(uninterrupted, tmp_path / "earlier")
    before = hashes(folder)
    yield folder
    assert hashes(folder) == before


WRONG = {
    "unknown experiment": ("--exp=dqm", ["--exp=dqm", "Did you mean dqn?", "--list"]),
    "empty experiment": ("--exp=", ["--exp="]),
    "experiment by its old name": ("--exp=supervised --updates=0", ["--updates is 0"]),
    "experiment without value": ("--exp", ["--exp needs a value"]),
    "experiment before an option": ("--exp --seed=1", ["--exp needs a value"]),
    "unknown option": (
        "--exp=dqn --learning-rat=1",
        ["--learning-rat ", "Did you mean --learning-rate?"],
    ),
    "unknown option of the run": (
        "--exp=dqn --run.sed=1",
        ["--run.sed ", "Did you mean --run.seed?"],
    ),
    "option of the run without its prefix": (
        "--exp=dqn --num-seeds=2",
        ["--num-seeds ", "Did you mean"],
    ),
    "stray word": ("--exp=dqn CartPole-v1", ["Unrecognized options: CartPole-v1. --help"]),
    "malformed integer": ("--exp=dqn --num-envs=abc", ["--num-envs", "'abc'", "--help"]),
    "integer with a fraction": ("--exp=dqn --num-envs=1.5", ["--num-envs", "'1.5'"]),
    "malformed number": ("--exp=dqn --learning-rate=fast", ["--learning-rate", "'fast'"]),
    "malformed sizes": ("--exp=dqn --hidden-sizes 12 x", ["--hidden-sizes", "'x'"]),
    "flag with a value": ("--exp=dqn --double=maybe", ["--double=maybe", "--no-double"]),
    "missing value": ("--exp=dqn --num-envs", ["--num-envs"]),
    "missing environment": ("--exp=dqn --env", ["--env needs a value"]),
    "unknown environment": (
        "--exp=dqn --env=CartPoll-v1",
        ["--env=CartPoll-v1", "Did you mean CartPole-v1?"],
    ),
    "unknown version": ("--exp=dqn --env=CartPole-v99", ["--env=CartPole-v99", "CartPole-v1"]),
    "empty environment": ("--exp=dqn --env=", ["--env="]),
    "environment of a missing module": (
        "--exp=dqn --env=nowhere:CartPole-v1",
        ["--env=nowhere:CartPole-v1"],
    ),
    "continuous actions": (
        "--exp=dqn --env=Pendulum-v1",
        ["Pendulum-v1", "continuous action space", "discrete"],
    ),
    "observations that are no Box": (
        "--exp=dqn --env=FrozenLake-v1",
        ["FrozenLake-v1", "observation space", "Box"],
    ),
    "unknown vectorization": (
        "--exp=dqn --vectorization=fast",
        ["--vectorization=fast", "serial, async, native"],
    ),
    "no vector class": (
        "--exp=dqn --env=Acrobot-v1 --vectorization=native",
        ["Acrobot-v1", "--vectorization=serial"],
    ),
    "native on the device": (
        "--exp=dqn --env=jax/CartPole-v1 --vectorization=async",
        ["JAX-native"],
    ),
    "zero environments": ("--exp=dqn --num-envs=0", ["--num-envs is 0", "at least 1"]),
    "negative budget": ("--exp=dqn --env-steps=-5", ["--env-steps is -5", "at least 1"]),
    "zero batch": ("--exp=dqn --batch-size=0", ["--batch-size is 0", "at least 1"]),
    "zero width": ("--exp=dqn --hidden-sizes 16 0", ["--hidden-sizes", "at least 1"]),
    "zero replay": ("--exp=dqn --replay-capacity=0", ["--replay-capacity is 0"]),
    "zero period": ("--exp=dqn --train-period=0", ["--train-period is 0"]),
    "zero target period": ("--exp=dqn --target-period=0", ["--target-period is 0"]),
    "zero episodes": ("--exp=dqn --eval-episodes=0", ["--eval-episodes is 0"]),
    "negative step size": (
        "--exp=dqn --learning-rate=-0.1",
        ["--learning-rate is -0.1", "above 0"],
    ),
    "step size not a number": (
        "--exp=dqn --learning-rate=nan",
        ["--learning-rate is nan", "a finite number"],
    ),
    "discount above 1": ("--exp=dqn --discount=1.5", ["--discount is 1.5", "between 0 and 1"]),
    "zero seeds": ("--exp=dqn --run.num-seeds=0", ["--run.num-seeds is 0", "at least 1"]),
    "zero devices": ("--exp=dqn --run.devices=0", ["--run.devices is 0", "at least 1"]),
    "negative seed": ("--exp=dqn --run.seed=-1", ["--run.seed is -1", "not be negative"]),
    "negative log period": ("--exp=dqn --run.log-period=-1", ["--run.log-period is -1"]),
    "negative evaluation period": ("--exp=dqn --run.eval-period=-1", ["--run.eval-period is -1"]),
    "negative checkpoint period": (
        "--exp=dqn --run.checkpoint-period=-1",
        ["--run.checkpoint-period is -1"],
    ),
    "negative inner steps": ("--exp=dqn --run.inner-steps=-1", ["--run.inner-steps is -1"]),
    "batch larger than replay": (
        "--exp=dqn --batch-size=600 --replay-capacity=500",
        ["--batch-size is 600", "between 1 and 500"],
    ),
    "learning before there is data": (
        "--exp=dqn --learning-starts=5",
        ["--learning-starts is 5", "at least 26"],
    ),
    "learning after the last step": (
        "--exp=dqn --env-steps=300",
        ["--learning-starts is 500", "at most --env-steps=300."],
    ),
    "more devices than there are": (
        "--exp=dqn --run.devices=99",
        ["--run.devices=99", "there are", "XLA_FLAGS"],
    ),
    "seeds not shared evenly": (
        "--exp=dqn --run.num-seeds=3 --run.devices=2",
        ["--run.num-seeds=3", "--run.devices=2", "multiple"],
    ),
    "environments not shared evenly": (
        "--exp=dqn --num-envs=3 --run.devices=2",
        ["--num-envs=3", "--run.devices=2", "multiple"],
    ),
    "unknown data": ("--exp=barlow_twins --data=fotos", ["--data=fotos", "photos"]),
    "data that is not there": ("--exp=barlow_twins --data=npz:nowhere.npz", ["nowhere.npz"]),
    "folder that is not there": ("--exp=barlow_twins --data=folder:nowhere", ["nowhere"]),
    "files that are not there": (
        "--exp=barlow_twins --data=cifar10 --data-dir=nowhere",
        ["nowhere"],
    ),
    "unknown network": ("--exp=barlow_twins --network=resnet", ["--network", "resnet18"]),
    "unknown optimizer": (
        "--exp=classify --optimizer.name=sgd",
        ["--optimizer.name", "sgd", "lars"],
    ),
    "unknown distortion": ("--exp=barlow_twins --views.blurr=1", ["Did you mean --views.blur?"]),
    "chance above 1": (
        "--exp=barlow_twins --views.flip=2",
        ["--views.flip is 2", "between 0 and 1"],
    ),
    "zero updates": ("--exp=classify --updates=0", ["--updates is 0", "at least 1"]),
    "batch larger than the data": (
        "--exp=classify --data=digits --batch-size=5000",
        ["--batch-size"],
    ),
    "images not shared evenly": (
        "--exp=barlow_twins --data=digits --batch-size=5 --run.devices=2",
        ["--batch-size=5", "--run.devices=2", "multiple"],
    ),
    "fine-tuning of nothing": (
        "--exp=finetune --from-scratch",
        ["--exp=finetune needs --init-from", "runs/"],
    ),
    "fine-tuning of a run that is not there": (
        "--exp=finetune --init-from=no/run",
        ["no/run is no folder of a run"],
    ),
    "fine-tuning with a decay of nothing": (
        "--exp=finetune --init-from=no --layer-decay=0",
        ["--layer-decay is 0.0"],
    ),
    "batch not shared evenly": (
        "--exp=dqn --num-envs=2 --batch-size=7 --run.devices=2",
        ["--batch-size=7", "--run.devices=2", "multiple"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_gets_one_line_and_leaves_an_earlier_run_alone(case, refuses, earlier):
    command, words = WRONG[case]
    after_the_mistake = (
        [] if command.endswith(("--exp", "--env", "--num-envs")) else [f"--run.dir={earlier}"]
    )
    refuses([*command.split(), *after_the_mistake], *words)


def test_fine_tuning_of_an_agent_leaves_no_run_behind(refuses, earlier, tmp_path, monkeypatch):
    """Without --run.dir a run makes its folder under runs/: not this one."""
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    refuses(
        ["--exp=finetune", f"--init-from={earlier}"], earlier, "holds no encoder", "of another kind"
    )
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", ["--from and --text", "python run.py fill --from=RUN"]),
        ("--from=run", ["--from and --text"]),
        ("--from=run --text", ["--text"]),
        ("--from=run --text=[MASK] --topp=3", ["--topp ", "Did you mean --top?", "--help"]),
        ("--from=run --text=[MASK] --top=many", ["--top", "'many'"]),
        ("--from=no/run --text=[MASK]", ["no/run is no folder of a run"]),
    ],
)
def test_a_mistake_in_filling_masks_gets_one_line(command, words, refuses):
    refuses(["fill", *command.split()], *words)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_of_fill_says_how_it_is_used(option, capsys):
    with pytest.raises(SystemExit) as stop:
        run.main(["fill", option])
    assert stop.value.code == 0
    said = capsys.readouterr()
    assert said.out.startswith("usage: python run.py fill")
    for word in ("--from", "--text", "--top INT", "(default: 5)", "[MASK]", "probabilities"):
        assert word in said.out
    assert said.err == ""


def test_inner_steps_that_the_host_cannot_serve(refuses, tmp_path):
    refuses(
        ["--exp=dqn", "--run.inner-steps=7", f"--run.dir={tmp_path / 'new'}"],
        "--run.inner-steps=7",
        "at most 4",
    )
    # The folder it had made is not in the way of the corrected command.
    refuses(
        ["--exp=dqn", "--run.inner-steps=8", f"--run.dir={tmp_path / 'new'}"], "--run.inner-steps=8"
    )


def test_a_folder_that_is_not_empty(refuses, earlier):
    refuses(["--exp=dqn", f"--run.dir={earlier}"], earlier, "not empty", "--run.resume")


def test_a_folder_that_is_a_file(refuses, tmp_path):
    (tmp_path / "file").write_text("mine")
    refuses(["--exp=dqn", f"--run.dir={tmp_path / 'file'}"], "is a file")
    refuses(["--exp=dqn", f"--run.dir={tmp_path / 'file' / 'below'}"], "cannot be used")
    assert (tmp_path / "file").read_text() == "mine"


def test_resume_without_a_folder(refuses):
    refuses(["--exp=dqn", "--run.resume"], "--run.resume needs --run.dir")


@pytest.mark.parametrize("exists", [True, False])
def test_resume_where_there_is_no_run(exists, refuses, tmp_path):
    folder = tmp_path / "run"
    if exists:
        folder.mkdir()
    refuses(["--exp=dqn", "--run.resume", f"--run.dir={folder}"], folder, "no run", "config.json")
    assert folder.exists() == exists
    assert not exists or not list(folder.iterdir())


def rewrite(folder, change):
    """Rewrite a run's config.json; return its new text."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def spoiled(uninterrupted, tmp_path):
    """Return the folder of an earlier run, to be spoiled by the test."""
    return shutil.copytree(uninterrupted, tmp_path / "spoiled")


def test_resume_another_experiments_run(refuses, spoiled, hashes):
    """Its options may be others altogether: that they differ is not what is wrong."""
    before = hashes(spoiled)
    refuses(["--exp=mae", "--run.resume", f"--run.dir={spoiled}"], spoiled, "--exp=dqn, not mae")
    assert hashes(spoiled) == before
    rewrite(spoiled, lambda config: config.update(exp="barlow_twins"))
    before = hashes(spoiled)
    refuses(["--exp=dqn", "--run.resume", f"--run.dir={spoiled}"], "--exp=barlow_twins, not dqn")
    assert hashes(spoiled) == before


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"exp": "dqn"}', "\x00\xff", '{"exp": "dqn", "con']
)
def test_resume_with_a_damaged_configuration(text, refuses, spoiled, hashes):
    (spoiled / "config.json").write_bytes(text.encode("latin-1"))
    before = hashes(spoiled)
    refuses(["--exp=dqn", "--run.resume", f"--run.dir={spoiled}"], "config.json is damaged")
    assert hashes(spoiled) == before


def test_resume_a_run_of_another_version(refuses, spoiled):
    rewrite(spoiled, lambda config: config["config"].update(momentum=0.9))
    refuses(["--exp=dqn", "--run.resume", f"--run.dir={spoiled}"], "momentum", "version")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--learning-rate=0.5", ["--learning-rate is 0.5", "was 0.001"]),
        ("--num-envs=4", ["--num-envs is 4", "was 2"]),
        ("--no-double", ["--double is False", "was True"]),
        ("--run.seed=3", ["--run.seed is 3", "was 0"]),
        ("--run.log-period=7", ["--run.log-period is 7", "was 20"]),
    ],
)
def test_resume_with_another_configuration(option, words, refuses, earlier):
    refuses(["--exp=dqn", "--run.resume", f"--run.dir={earlier}", option], earlier, *words)


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_in_use(resume, refuses, uninterrupted, hashes, tmp_path):
    """The lock is all that a run has made before its configuration stands.

    Then no --run.resume is needed.
    """
    folder = tmp_path / "run"
    if resume:
        shutil.copytree(uninterrupted, folder)
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = hashes(folder)
        refuses(
            ["--exp=dqn", f"--run.dir={folder}", *["--run.resume"] * resume],
            folder,
            "in use by a live run",
        )
        assert hashes(folder) == before


def test_a_live_run_keeps_its_folder(runs, tiny, refuses, uninterrupted, outcome, tmp_path):
    live = runs.start(*tiny, f"--run.dir={tmp_path / 'run'}")
    live.wait_for_lines(2)
    refuses(["--exp=dqn", f"--run.dir={tmp_path / 'run'}", "--run.resume"], "in use by a live run")
    assert live.wait() == 0
    assert outcome(tmp_path / "run") == outcome(uninterrupted)


@pytest.mark.parametrize(
    ("env", "module", "extra"),
    [("ALE/Pong-v5", "ale_py", "atari"), ("LunarLander-v3", "Box2D", "box2d")],
)
def test_an_environment_whose_extra_is_missing(env, module, extra, refuses, earlier, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    refuses(
        ["--exp=dqn", f"--env={env}", f"--run.dir={earlier}"],
        f"--env={env}",
        f"pip install -e '.[{extra}]'",
    )


def test_as_a_process_there_is_no_traceback_either(root, earlier):
    """The whole way once: status 2, one line on standard error, and before it that it begins."""
    command = [sys.executable, "run.py", "--exp=dqn", "--num-envs=abc", f"--run.dir={earlier}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, f"{run.READY}\n")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")


def test_a_reader_that_has_had_enough_gets_no_traceback(root):
    """`python run.py --help | head`: the reader's end is closed before anything is written."""
    command = [sys.executable, "run.py", "--exp=dqn", "--help"]
    process = subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 141


def test_an_interrupt_before_training_is_one_line(capsys, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_dispatch", interrupt)
    assert run.main([]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_an_error_of_several_lines_is_shown_as_one(capsys, monkeypatch):
    def fail(_):
        raise UserError("first\nsecond")

    monkeypatch.setattr(run, "_dispatch", fail)
    assert run.main([]) == 2
    assert capsys.readouterr().err == "error: first second\n"


def test_a_warning_is_one_line_without_its_place(capsys):
    run._warn(UserWarning("first\n  second"), UserWarning, "file.py", 12)
    assert capsys.readouterr().err == "warning: first second\n"


def test_a_warning_that_nobody_can_read_is_no_fault_of_the_run(monkeypatch):
    """`2>&1 | head`, or standard error on a full disk."""

    class Gone:
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(sys, "stderr", Gone())
    run._warn(UserWarning("first"), UserWarning, "file.py", 12)


def test_the_console_script_is_the_door(root, capsys, monkeypatch):
    """The function that pyproject.toml names: the same status and line; warnings of one line."""
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"missing-bits": "missing_bits.run:console"}
    monkeypatch.setattr(sys, "argv", ["missing-bits", "--exp=dqm"])
    with warnings.catch_warnings():  # puts back what shows them
        with pytest.raises(SystemExit) as stop:
            run.console()
        assert warnings.showwarning is run._warn
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: --exp=dqm is not an experiment")


def test_another_folders_code_is_not_run_in_silence(monkeypatch, tmp_path, capsys):
    """One virtual environment and two clones: it has installed the other one."""
    monkeypatch.setattr(run, "__file__", str(tmp_path / "run.py"))
    monkeypatch.setattr(sys, "argv", ["run.py", "--list"])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stop:
        run.console()
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "would run the code of another folder" in said.err


def test_without_an_installation_it_says_how_to_make_one(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stop:
        run.console()
    assert stop.value.code == 2
    assert "has no missing_bits. Install it: python -m venv" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: 90 GB")])
def test_too_little_memory_is_one_line(error, capsys, monkeypatch):
    def fail(_):
        raise error

    monkeypatch.setattr(run, "_dispatch", fail)
    assert run.main([]) == 2
    assert "not enough memory" in capsys.readouterr().err


def test_a_fault_of_ours_is_not_told_as_one_of_memory(monkeypatch):
    def fail(_):
        raise RuntimeError("a fault")

    monkeypatch.setattr(run, "_dispatch", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        run.main([])


def test_names_are_found_in_any_case(asks):
    assert asks("--exp=DQN") == asks("--exp=dqn")
    assert asks("--exp=Barlow-Twins") == asks("--exp=barlow_twins")


def test_help_lists_presets(capsys):
    with pytest.raises(SystemExit):
        run.main(["--exp=dqn", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name in dqn.PRESETS:
        assert f"--env={name}" in said.replace("│ ", "")


def test_version(capsys):
    for arguments in (["--version"], ["--exp=dqn", "--version"]):
        assert run.main(arguments) == 0
        version = importlib.metadata.version("missing-bits")
        assert capsys.readouterr().out == f"missing-bits {version}\n"


def test_list_names_every_experiment_with_its_default(capsys):
    assert run.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(EXPERIMENTS)
    for line, (name, row) in zip(lines, EXPERIMENTS.items(), strict=True):
        assert line.split()[0] == name
        assert row.summary in line
        assert line.endswith(f" {row.default}")


def test_without_an_experiment_it_says_what_there_is(capsys):
    assert run.main([]) == 2
    assert run.main(["--help"]) == 0
    shown = capsys.readouterr().out.split("The door:")[1:]
    assert len(shown) == 2
    for said in shown:
        assert "dqn" in said
        assert "--list" in said
        for command in COMMANDS.values():
            assert command.usage in said


@pytest.mark.parametrize("first", ["--run.resume", "dqn", "fil"])
def test_options_without_an_experiment_are_refused(first, refuses):
    refuses([first, "--run.dir=runs/mine"], f"{first} names no experiment", "--exp=dqn", "fill")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_default_in_the_table_is_the_configurations(name):
    found = find(name)
    config = found.config()
    # What fine-tuning learns from is that of the run which --init-from names.
    default = options.value(config, found.method.subject) or "of the run"
    assert default == EXPERIMENTS[name].default


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_explains_every_option_with_its_default(name, capsys, monkeypatch):
    """Every field has a docstring, and --help shows it beside the default."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        run.main([f"--exp={name}", "--help"])
    assert stop.value.code == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    found = find(name)
    config = found.config()
    for option in itertools.chain(options_of(config, "--"), options_of(RunConfig(), "--run.")):
        assert option.text, f"{option.name} has no docstring"
        assert " ".join(option.text.split()) in words, f"--help does not explain {option.name}"
        assert option.name in words
        if isinstance(option.default, bool | str):
            continue
        several = isinstance(option.default, tuple)
        shown = " ".join(map(str, option.default)) if several else str(option.default)
        assert f"(default: {shown})" in words.split(option.name, 1)[1]


class Option(NamedTuple):
    """What --help should say of an option."""

    name: str
    text: str | None
    default: Any


def options_of(config, prefix):
    """Yield the options of a configuration and its groups."""
    from tyro._docstrings import get_field_docstring  # how tyro itself reads them

    for field in options.fields(type(config)):
        default = getattr(config, field.name)
        if field.is_group:
            yield from options_of(default, field.prefix(prefix))
        else:
            text = get_field_docstring(type(config), field.name, ())
            yield Option(prefix + field.option, text, default)


class Asked(NamedTuple):
    """What the door asks the loop to train."""

    method: type
    config: Any
    run: RunConfig
    name: str


@pytest.fixture
def asks(monkeypatch):
    """Return the function that tells what a command line would train; nothing is trained."""
    asked = []

    def train(method, config, run, *, name, process):
        asked.append(Asked(method, config, run, name))

    loop = types.SimpleNamespace(train=train)
    monkeypatch.setitem(sys.modules, "missing_bits.loop.train", loop)

    def asks(*arguments):
        assert run.main([str(argument) for argument in arguments]) == 0
        return asked.pop()

    return asks


def test_presets_go_by_the_environments_name(asks, monkeypatch):
    """The preset of --env sets defaults, an option wins over it, others do not get it."""
    monkeypatch.setattr(dqn, "PRESETS", {"Acrobot-v1": {"n_step": 3, "discount": 0.9}})
    preset = {"env": "Acrobot-v1", "n_step": 3, "discount": 0.9}
    assert asks("--exp=dqn").config == dqn.Config()
    assert asks("--exp=dqn", "--env=Acrobot-v1").config == options.make(dqn.Config, **preset)
    assert asks("--exp=dqn", "--env", "Acrobot-v1", "--n_step=2").config == options.make(
        dqn.Config, **preset | {"n_step": 2}
    )


def test_a_row_of_the_table_may_have_settings(asks):
    """`--exp=lora` is fine-tuning with another method, which may still be changed."""
    lora = asks("--exp=lora", "--init-from=x")
    full = asks("--exp=finetune", "--init-from=x")
    assert lora.method is full.method
    assert (lora.name, full.name) == ("lora", "finetune")
    assert (lora.config.method, full.config.method) == ("lora", "full")
    assert options.replace(lora.config, {"method": "full"}) == full.config
    assert asks("--exp=lora", "--init-from=x", "--method=linear").config.method == "linear"


@pytest.mark.parametrize("name", [name for name, row in EXPERIMENTS.items() if row.parts])
def test_no_preset_undoes_what_a_row_is(name):
    """As MountainCar's once made plain DQN of double DQN."""
    found = find(name)
    for subject in (None, *getattr(found.module, "PRESETS", {})):
        config = found.config(subject)
        assert {part: options.value(config, part) for part in found.row.parts} == found.row.parts


def test_presets_count_above_what_a_row_is_tuned_to():
    assert find("rainbow").config().batch_size == 64
    assert find("rainbow").config("jax/Breakout-v1").batch_size == 32


def test_presets_of_a_row_count_above_the_methods():
    for name in dqn.PRESETS:
        known = find("dqn").config(name).learning_rate
        of_minatar = dqn.PRESETS[name].get("env_steps") == 500_000
        own = 5e-4 if of_minatar else known
        assert find("qr_dqn").config(name).learning_rate == own, name
    assert all(set(row.presets) <= set(dqn.PRESETS) for row in EXPERIMENTS.values())


def test_what_is_taken_by_default_has_its_preset_too():
    for name in EXPERIMENTS:
        found = find(name)
        config = found.config()
        assert config == found.config(options.value(config, found.method.subject)), name
    assert find("gan").config().updates == gan.PRESETS["digits"]["updates"]


@pytest.mark.parametrize("old", ALIASES)
def test_old_names_still_work(old, asks):
    name = ALIASES[old]
    asked = asks(f"--exp={old}")
    assert asked.name == name
    assert asked.method is find(name).method
    assert asked.config == asks(f"--exp={name}").config


def test_the_old_name_of_masked_images_knows_both_methods(asks, refuses):
    assert asks("--exp=masked_image", "--method=simmim").name == "simmim"
    assert asks("--exp=masked_image", "--method", "mae").name == "mae"
    refuses(["--exp=mae", "--method=simmim"], "--method is not an option")


# Options from a file.

MINE = """
exp = "barlow_twins"
data = "digits"
projector-sizes = [16, 8]
bfloat16 = true
[views]
crop_scale = [0.5, 1.0]
[optimizer]
name = "lars"
learning-rate = 1
[run]
seed = 3
compilation-cache = false
"""


def test_options_of_a_toml_file(asks, tmp_path):
    """Tables, lists and switches; the preset of its data beneath, flags above."""
    (tmp_path / "mine.toml").write_text(MINE)
    file = f"--config={tmp_path / 'mine.toml'}"
    asked = asks(file)
    found = find("barlow_twins")
    assert asked.method is found.method
    preset = options.make(found.module.Config, **found.module.PRESETS["digits"])
    views = {"crop_scale": (0.5, 1.0)}
    optimizer = {"name": "lars", "learning_rate": 1.0}
    expected = options.replace(
        preset,
        {
            "data": "digits",
            "projector_sizes": (16, 8),
            "bfloat16": True,
            "views": views,
            "optimizer": optimizer,
        },
    )
    assert expected.views.flip == 0  # the preset's
    assert asked.config == expected
    assert asked.run == RunConfig(seed=3, compilation_cache=False)

    flags = ["--views.flip=0.25", "--no-bfloat16", "--projector-sizes", "4", "--run.seed=5"]
    changed = {"views": {"flip": 0.25}, "bfloat16": False, "projector_sizes": (4,)}
    asked = asks(*flags, file)
    assert asked.config == options.replace(expected, changed)
    assert asked.run.seed == 5


def test_an_experiment_on_the_command_line_wins_over_the_files(asks, refuses, tmp_path):
    (tmp_path / "mine.toml").write_text('exp = "barlow_twins"\ndata = "digits"\n')
    file = f"--config={tmp_path / 'mine.toml'}"
    assert asks(file, "--exp=classify").name == "classify"
    refuses([file, "--exp=dqn"], f"{file}: --data is not an option")


def test_options_of_an_earlier_run(asks, earlier):
    """All but where it lies, which is chosen anew."""
    saved = json.loads((earlier / "config.json").read_text())
    asked = asks(f"--config={earlier / 'config.json'}", "--run.seed=7", "--n-step=2")
    before = options.from_json(dqn.Config, saved["config"], "file")
    assert asked.config == options.replace(before, {"n_step": 2})
    before = options.from_json(RunConfig, saved["run"], "file")
    assert asked.run == options.replace(before, {"dir": "", "seed": 7})


WRONG_FILES = {
    "torn TOML": (".toml", 'exp = "dqn"\n[run', ["cannot be read", "table"]),
    "torn JSON": (".json", '{"exp": "dqn", "con', ["cannot be read"]),
    "bytes": (".toml", "\x00\xff", ["cannot be read"]),
    "bytes in JSON": (".json", "\x00\xff", ["cannot be read"]),
    "deep JSON": (".json", "[" * 100_000, ["cannot be read"]),
    "another language": (".yaml", "exp: dqn", ["cannot be read"]),
    "empty TOML": (".toml", "", ["names no experiment", "--exp"]),
    "empty JSON": (".json", "", ["cannot be read"]),
    "a list": (".json", "[1]", ["holds no options", ".toml"]),
    "null": (".json", "null", ["holds no options"]),
    "a result": (".json", '{"exp": "dqn", "seed": 0}', ["no config.json of a run"]),
    "no experiment": (".json", '{"config": {}, "run": {}}', ["no config.json of a run"]),
    "no options": (".json", '{"exp": "dqn", "config": {}, "run": {}}', ["differ in the options"]),
    "list of options": (".json", '{"exp": "dqn", "config": [], "run": {}}', ["differ in the"]),
    "strange experiment": (".toml", 'exp = "dqm"', ["--exp=dqm", "Did you mean dqn?"]),
    "strange experiment in JSON": (
        ".json",
        '{"exp": "dqm", "config": {}, "run": {}}',
        ["--exp=dqm", "Did you mean dqn?"],
    ),
    "a number as experiment": (".toml", "exp = 3", ["exp is 3", "name"]),
    "unknown option": (".toml", 'exp = "dqn"\nn_stp = 3', ["--n-stp ", "Did you mean --n-step?"]),
    "unknown option of the run": (
        ".toml",
        'exp = "dqn"\n[run]\nsed = 3',
        ["--run.sed ", "Did you mean --run.seed?"],
    ),
    "table for a value": (".toml", 'exp = "dqn"\n[env]\nname = "x"', ["--env.name "]),
    "value for a table": (".toml", 'exp = "dqn"\nrun = 3', ["--run "]),
    "text for a number": (".toml", 'exp = "dqn"\nn-step = "two"', ["--n-step", "'two'"]),
    "fraction for an integer": (".toml", 'exp = "dqn"\nn-step = 1.5', ["--n-step", "'1.5'"]),
    "switch for a number": (".toml", 'exp = "dqn"\nn-step = true', ["--n-step"]),
    "text for switch": (".toml", 'exp = "dqn"\ndouble = "yes"', ["--double=yes", "no value"]),
    "text for a list": (".toml", 'exp = "dqn"\nhidden-sizes = "8 8"', ["--hidden-sizes", "'8 8'"]),
    "list for a number": (".toml", 'exp = "dqn"\nn-step = [1, 2]', ["2"]),
    "a date": (".toml", 'exp = "dqn"\nn-step = 2020-01-01', ["n-step", "2020-01-01", "numbers"]),
    "option in an option": (".toml", 'exp = "dqn"\nwrappers = ["--envs=x"]', ["holds", "--envs=x"]),
    "zero": (".toml", 'exp = "dqn"\nn-step = 0', ["--n-step is 0", "at least 1"]),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_mistake_in_a_file_of_options_gets_one_line(case, refuses, tmp_path):
    suffix, text, words = WRONG_FILES[case]
    file = tmp_path / f"mine{suffix}"
    file.write_bytes(text.encode("latin-1"))
    about_the_file = () if "zero" in case or "for a" in case or "strange" in case else (file,)
    refuses([f"--config={file}", f"--run.dir={tmp_path / 'run'}"], *words, *about_the_file)
    assert not (tmp_path / "run").exists()


def test_a_file_of_options_that_is_not_there(refuses, tmp_path):
    refuses([f"--config={tmp_path / 'none.toml'}"], "none.toml", "no such file")
    refuses([f"--config={tmp_path}", "--exp=dqn"], "is a folder; give a file")
    refuses(["--exp=dqn", "--config"], "--config needs a value")


@pytest.mark.parametrize("value", ["many", None, [1], {}, True, 1.5])
def test_an_earlier_runs_option_of_another_kind(value, refuses, spoiled):
    rewrite(spoiled, lambda saved: saved["config"].update(n_step=value))
    file = spoiled / "config.json"
    shown = json.dumps(value)
    refuses([f"--config={file}"], f"{file} is damaged: --n-step is {shown}")
    refuses(["--exp=dqn", "--run.resume", f"--run.dir={spoiled}"], f"--n-step is {shown}")


# Code from outside.

PAYLOAD = """
import pathlib

import gymnasium

pathlib.Path(__file__).with_name("imported").touch()
gymnasium.register("Cart-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv")


def wrap(env):
    return env


class Method:
    subject = "data"


class Config:
    pass
"""
FEW = "--run.devices=99"  # refused once environments are made


class Payload(NamedTuple):
    """A module that must not be imported unless the command line names it."""

    name: str
    imported: Any  # the file that importing it writes


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """Return a module that leaves a file when it is imported."""
    folder = tmp_path / "payload"
    folder.mkdir()
    (folder / "payload_module.py").write_text(PAYLOAD)
    monkeypatch.syspath_prepend(folder)
    yield Payload("payload_module", folder / "imported")
    sys.modules.pop("payload_module", None)
    gymnasium.registry.pop("Cart-v0", None)


@pytest.mark.parametrize(
    ("option", "lines"),
    [
        ("--env=payload_module:Cart-v0", 'env = "payload_module:Cart-v0"'),
        ("--wrappers=payload_module:wrap", 'wrappers = ["payload_module:wrap"]'),
    ],
)
def test_code_that_only_a_toml_file_names(option, lines, payload, refuses, tmp_path):
    """Nothing of it is imported; the command line may name the same."""
    (tmp_path / "mine.toml").write_text(f'exp = "dqn"\n{lines}\n')
    file = f"--config={tmp_path / 'mine.toml'}"
    named = option.partition("=")[2]
    refuses([file, FEW], f"{named} is code", "not imported", "Give the option as well")
    assert not payload.imported.exists()
    refuses([file, FEW, *option.split("=")], FEW)
    assert payload.imported.exists()


@pytest.mark.parametrize(
    ("option", "settings"),
    [
        ("--env=payload_module:Cart-v0", {"env": "payload_module:Cart-v0"}),
        ("--wrappers=payload_module:wrap", {"wrappers": ["flatten", "payload_module:wrap"]}),
    ],
)
@pytest.mark.parametrize("resumed", [True, False])
def test_code_that_only_an_earlier_run_names(
    resumed, option, settings, payload, refuses, asks, spoiled
):
    """Neither resuming it nor taking its options imports anything that is not named again."""
    rewrite(spoiled, lambda saved: saved["config"]["envs"].update(settings))
    again = [f"--config={spoiled / 'config.json'}"]
    if resumed:
        again = ["--exp=dqn", "--run.resume", f"--run.dir={spoiled}"]
    named = option.partition("=")[2]
    refuses(again, f"{named} is code", "not imported", "Give the option as well")
    flags = [option] if "env" in settings else ["--wrappers", *settings["wrappers"]]
    asked = asks(*again, *flags)
    assert named in (asked.config.envs.env, *asked.config.envs.wrappers)
    assert not payload.imported.exists()  # that is for the loop to do


def test_the_old_name_of_masked_images_leads_to_no_code(payload, refuses, tmp_path):
    """Its option --method chose between two; what stands there is not a class to import."""
    (tmp_path / "mine.toml").write_text(f'exp = "masked_image"\nmethod = "{payload.name}:C"\n')
    refuses([f"--config={tmp_path / 'mine.toml'}"], "--exp=mae and --exp=simmim")
    refuses(["--exp=masked_image", "--method=dqn"], "--method is dqn")
    assert not payload.imported.exists()


def test_code_is_trusted_for_the_option_that_names_it_alone(payload, refuses, tmp_path):
    (tmp_path / "mine.toml").write_text('exp = "dqn"\nenv = "payload_module:Cart-v0"\n')
    file = f"--config={tmp_path / 'mine.toml'}"
    refuses([file, "--run.dir=payload_module:Cart-v0"], "--env=payload_module:Cart-v0 is code")
    assert not payload.imported.exists()


@pytest.mark.parametrize("line", ['wrappers = ["--run.dir=x"]', "help = true"])
def test_a_file_gives_values_and_no_options(line, refuses, tmp_path):
    (tmp_path / "mine.toml").write_text(f'exp = "dqn"\n{line}\n')
    refuses([f"--config={tmp_path / 'mine.toml'}"], "--config=")


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_method_that_only_a_file_names(suffix, payload, refuses, tmp_path):
    file = tmp_path / f"mine{suffix}"
    saved = {"exp": "payload_module:Method", "config": {}, "run": {}}
    toml = 'exp = "payload_module:Method"\n'
    file.write_text(toml if suffix == ".toml" else json.dumps(saved))
    refuses([f"--config={file}"], "names the code payload_module:Method", "not imported")
    if suffix == ".json":
        refuses([f"--config={file}", "--exp=dqn"], "--exp=payload_module:Method, not dqn")
    assert not payload.imported.exists()


def test_a_resumed_runs_method_is_not_imported(payload, refuses, spoiled):
    rewrite(spoiled, lambda saved: saved.update(exp="payload_module:Method"))
    resume = ["--run.resume", f"--run.dir={spoiled}"]
    refuses(["--exp=dqn", *resume], "--exp=payload_module:Method, not dqn")
    assert not payload.imported.exists()


OUTSIDE = {
    "no_such_module:Method": ["there is no module no_such_module", "PYTHONPATH"],
    "missing_bits.no_such:Method": ["there is no module missing_bits.no_such"],
    "payload_module:Nothing": ["payload_module has no class Nothing"],
    "payload_module:": ["payload_module has no class after the colon"],
    "payload_module:Method": ["payload_module has no TINY", "docs/adding_a_method.md"],
    "json:JSONDecoder": ["json has no Config and no TINY"],
    ":Method": ["names no module", "my_package.my_module:MyMethod"],
    ".relative:Method": ["names no module", "my_package.my_module:MyMethod"],
    "needs_another:Method": ["needs no_such_package, which is not installed"],
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_method_from_outside_that_is_none(name, payload, refuses):
    (payload.imported.parent / "needs_another.py").write_text("import no_such_package\n")
    refuses([f"--exp={name}"], f"--exp={name}", *OUTSIDE[name])


def test_a_method_from_outside(asks):
    """By its module and class, as the library calls it too: without settings of a row."""
    asked = asks("--exp=missing_bits.supervised.finetune:Finetune", "--init-from=x")
    row = asks("--exp=finetune", "--init-from=x")
    assert asked.name == "missing_bits.supervised.finetune:Finetune"
    assert asked[:3] == row[:3]


def test_a_run_of_the_library_may_be_resumed_by_its_name_in_the_table(asks, spoiled):
    rewrite(spoiled, lambda saved: saved.update(exp="missing_bits.agents.dqn:DQN"))
    asked = asks("--exp=dqn", "--run.resume", f"--run.dir={spoiled}")
    assert asked.method is dqn.DQN
    assert asked.name == "dqn"
