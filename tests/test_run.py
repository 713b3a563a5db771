"""The door: what it lists and explains, and one clear line for every mistake."""

import dataclasses
import fcntl
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import types

import pytest

from missing_bits.errors import UserError
from missing_bits.loop.config import RunConfig


@pytest.fixture(scope="module")
def run(root):
    """Return run.py as a module."""
    spec = importlib.util.spec_from_file_location("run", root / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def refuses(run, capsys):
    """Return the function that runs a command line, insists on one line of error naming all words, and returns it."""

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
    "experiment without value": ("--exp", ["--exp needs a value"]),
    "experiment before an option": ("--exp --seed=1", ["--exp needs a value"]),
    "unknown option": ("--exp=dqn --learning-rat=1", ["--learning-rat ", "Did you mean --learning-rate?"]),
    "unknown option of the run": ("--exp=dqn --run.sed=1", ["--run.sed ", "Did you mean --run.seed?"]),
    "option of the run without its prefix": ("--exp=dqn --num-seeds=2", ["--num-seeds ", "Did you mean"]),
    "stray word": ("--exp=dqn CartPole-v1", ["CartPole-v1"]),
    "malformed integer": ("--exp=dqn --num-envs=abc", ["--num-envs", "'abc'", "--help"]),
    "integer with a fraction": ("--exp=dqn --num-envs=1.5", ["--num-envs", "'1.5'"]),
    "malformed number": ("--exp=dqn --learning-rate=fast", ["--learning-rate", "'fast'"]),
    "malformed sizes": ("--exp=dqn --hidden-sizes 12 x", ["--hidden-sizes", "'x'"]),
    "flag with a value": ("--exp=dqn --double=maybe", ["maybe"]),
    "missing value": ("--exp=dqn --num-envs", ["--num-envs"]),
    "missing environment": ("--exp=dqn --env", ["--env needs a value"]),
    "unknown environment": ("--exp=dqn --env=CartPoll-v1", ["--env=CartPoll-v1", "Did you mean CartPole-v1?"]),
    "unknown version": ("--exp=dqn --env=CartPole-v99", ["--env=CartPole-v99", "CartPole-v1"]),
    "empty environment": ("--exp=dqn --env=", ["--env="]),
    "environment of a missing module": ("--exp=dqn --env=nowhere:CartPole-v1", ["--env=nowhere:CartPole-v1"]),
    "continuous actions": ("--exp=dqn --env=Pendulum-v1", ["Pendulum-v1", "continuous action space", "discrete"]),
    "observations that are no Box": ("--exp=dqn --env=FrozenLake-v1", ["FrozenLake-v1", "observation space", "Box"]),
    "unknown vectorization": ("--exp=dqn --vectorization=fast", ["--vectorization=fast", "serial, async, native"]),
    "no vector class": ("--exp=dqn --env=Acrobot-v1 --vectorization=native", ["Acrobot-v1", "--vectorization=serial"]),
    "native on the device": ("--exp=dqn --env=phys2d/CartPole-v1 --vectorization=async", ["JAX-native"]),
    "zero environments": ("--exp=dqn --num-envs=0", ["--num-envs is 0", "at least 1"]),
    "negative budget": ("--exp=dqn --env-steps=-5", ["--env-steps is -5", "at least 1"]),
    "zero batch": ("--exp=dqn --batch-size=0", ["--batch-size is 0", "at least 1"]),
    "zero width": ("--exp=dqn --hidden-sizes 16 0", ["--hidden-sizes", "at least 1"]),
    "zero replay": ("--exp=dqn --replay-capacity=0", ["--replay-capacity is 0"]),
    "zero period": ("--exp=dqn --train-period=0", ["--train-period is 0"]),
    "zero target period": ("--exp=dqn --target-period=0", ["--target-period is 0"]),
    "zero episodes": ("--exp=dqn --eval-episodes=0", ["--eval-episodes is 0"]),
    "negative step size": ("--exp=dqn --learning-rate=-0.1", ["--learning-rate is -0.1", "above 0"]),
    "step size not a number": ("--exp=dqn --learning-rate=nan", ["--learning-rate is nan", "above 0"]),
    "discount above 1": ("--exp=dqn --discount=1.5", ["--discount is 1.5", "between 0 and 1"]),
    "zero seeds": ("--exp=dqn --run.num-seeds=0", ["--run.num-seeds is 0", "at least 1"]),
    "zero devices": ("--exp=dqn --run.devices=0", ["--run.devices is 0", "at least 1"]),
    "negative seed": ("--exp=dqn --run.seed=-1", ["--run.seed is -1", "not be negative"]),
    "negative log period": ("--exp=dqn --run.log-period=-1", ["--run.log-period is -1"]),
    "negative evaluation period": ("--exp=dqn --run.eval-period=-1", ["--run.eval-period is -1"]),
    "negative checkpoint period": ("--exp=dqn --run.checkpoint-period=-1", ["--run.checkpoint-period is -1"]),
    "negative inner steps": ("--exp=dqn --run.inner-steps=-1", ["--run.inner-steps is -1"]),
    "batch larger than replay": (
        "--exp=dqn --batch-size=600 --replay-capacity=500",
        ["--batch-size is 600", "between 1 and 500"],
    ),
    "learning before there is data": ("--exp=dqn --learning-starts=5", ["--learning-starts is 5", "between 7"]),
    "more devices than there are": ("--exp=dqn --run.devices=99", ["--run.devices=99", "there are", "XLA_FLAGS"]),
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
    "files that are not there": ("--exp=barlow_twins --data=cifar10 --data-dir=nowhere", ["nowhere"]),
    "unknown network": ("--exp=barlow_twins --network=resnet", ["--network", "resnet18"]),
    "unknown optimizer": ("--exp=supervised --optimizer.name=sgd", ["--optimizer.name", "sgd", "lars"]),
    "unknown distortion": ("--exp=barlow_twins --views.blurr=1", ["Did you mean --views.blur?"]),
    "chance above 1": ("--exp=barlow_twins --views.flip=2", ["--views.flip is 2", "between 0 and 1"]),
    "zero updates": ("--exp=supervised --updates=0", ["--updates is 0", "at least 1"]),
    "batch larger than the data": ("--exp=supervised --data=digits --batch-size=5000", ["--batch-size"]),
    "images not shared evenly": (
        "--exp=barlow_twins --data=digits --batch-size=5 --run.devices=2",
        ["--batch-size=5", "--run.devices=2", "multiple"],
    ),
    "fine-tuning of nothing": ("--exp=finetune --from-scratch", ["--exp=finetune needs --init-from", "runs/"]),
    "fine-tuning of a run that is not there": ("--exp=finetune --init-from=no/run", ["no/run is no folder of a run"]),
    "fine-tuning with a decay of nothing": ("--exp=finetune --init-from=no --layer-decay=0", ["--layer-decay is 0.0"]),
    "batch not shared evenly": (
        "--exp=dqn --num-envs=2 --batch-size=7 --run.devices=2",
        ["--batch-size=7", "--run.devices=2", "multiple"],
    ),
}  # fmt: skip


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
        ("--from", ["--from needs a value"]),
        ("--from=run --text=[MASK] --topp=3", ["--topp=3 is not an option of fill", "[--top=5]"]),
        ("--from=run --text=[MASK] --top=many", ["--top=many is not a number"]),
        ("--from=no/run --text=[MASK]", ["no/run is no folder of a run"]),
    ],
)
def test_a_mistake_in_filling_masks_gets_one_line(command, words, refuses):
    refuses(["fill", *command.split()], *words)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_of_fill_says_how_it_is_used(option, run, capsys):
    assert run.main(["fill", option]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("python run.py fill --from=RUN --text=")
    for word in ("--top=5", "[MASK]", "probabilities"):
        assert word in said.out
    assert said.err == ""


def test_inner_steps_that_the_host_cannot_serve(refuses, tmp_path):
    refuses(
        ["--exp=dqn", "--run.inner-steps=7", f"--run.dir={tmp_path / 'new'}"],
        "--run.inner-steps=7",
        "at most 1",
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
    refuses(["--exp=dqn", f"--run.dir={tmp_path / 'file' / 'below'}"], "cannot be written")
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
    rewrite(spoiled, lambda config: config.update(exp="barlow_twins"))
    before = hashes(spoiled)
    refuses(
        ["--exp=dqn", "--run.resume", f"--run.dir={spoiled}"],
        spoiled,
        "--exp=barlow_twins",
        "not dqn",
    )
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
        ("--learning-rate=0.5", ["--learning-rate is 0.5", "was 0.002"]),
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
    """The lock is all that a run has made before its configuration stands: then no --run.resume is needed."""
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
    """The whole way once: status 2, nothing on standard output, one line on standard error."""
    command = [sys.executable, "run.py", "--exp=dqn", "--num-envs=abc", f"--run.dir={earlier}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
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


def test_an_interrupt_before_training_is_one_line(run, capsys, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_dispatch", interrupt)
    assert run.main([]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_an_error_of_several_lines_is_shown_as_one(run, capsys, monkeypatch):
    def fail(_):
        raise UserError("first\nsecond")

    monkeypatch.setattr(run, "_dispatch", fail)
    assert run.main([]) == 2
    assert capsys.readouterr().err == "error: first second\n"


def test_a_warning_is_one_line_without_its_place(run, capsys):
    run._warn(UserWarning("first\n  second"), UserWarning, "file.py", 12)
    assert capsys.readouterr().err == "warning: first second\n"


def test_list_names_every_experiment_with_its_default(run, capsys):
    assert run.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(run.EXPERIMENTS)
    for line, (name, (_, summary, default)) in zip(lines, run.EXPERIMENTS.items(), strict=True):
        assert line.split()[0] == name
        assert summary in line
        assert line.endswith(default)


def test_without_an_experiment_it_says_what_there_is(run, capsys):
    assert run.main([]) == 2
    assert run.main(["--help"]) == 0
    for said in capsys.readouterr().out.split("The door:")[1:]:
        assert "dqn" in said
        assert "--list" in said


def experiments():
    """Return the table of run.py, read without a fixture: pytest wants it while it collects."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    spec = importlib.util.spec_from_file_location("run", os.path.join(root, "run.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: row[0].split(":")[0] for name, row in module.EXPERIMENTS.items()}


@pytest.mark.parametrize("name", experiments())
def test_the_default_in_the_table_is_the_configurations(name, run):
    config = importlib.import_module(experiments()[name]).Config()
    default = (
        getattr(config, dataclasses.fields(config)[0].name) or "of the run"
    )  # that --init-from names
    assert default == run.EXPERIMENTS[name][2]


@pytest.mark.parametrize("name", experiments())
def test_help_explains_every_option_with_its_default(name, run, capsys, monkeypatch):
    """Every field has a docstring, and --help shows it beside the default."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as stop:
        run.main([f"--exp={name}", "--help"])
    assert stop.value.code == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    from tyro._docstrings import get_field_docstring  # how tyro itself reads them

    groups = [
        (importlib.import_module(experiments()[name]).Config(), "--"),
        (RunConfig(), "--run."),
    ]
    for config, prefix in groups:
        for field in dataclasses.fields(config):
            default = getattr(config, field.name)
            if dataclasses.is_dataclass(default):
                groups.append((default, f"{prefix}{field.name.replace('_', '-')}."))
                continue
            text = get_field_docstring(type(config), field.name, ())
            assert text, f"{type(config).__name__}.{field.name} has no docstring"
            assert " ".join(text.split()) in words, f"--help does not explain {field.name}"
            assert prefix + field.name.replace("_", "-") in words
            if isinstance(default, bool | str):
                continue
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
            assert f"(default: {shown})" in words.split(prefix + field.name.replace("_", "-"), 1)[1]


def test_presets_go_by_the_environments_name(run, monkeypatch, capsys):
    """The preset of --env sets defaults, an option wins over it, and other environments do not get it."""
    from missing_bits.agents import dqn

    chosen = []
    monkeypatch.setitem(
        sys.modules,
        "missing_bits.loop.train",
        types.SimpleNamespace(train=lambda *a: chosen.append(a)),
    )
    monkeypatch.setattr(dqn, "PRESETS", {"Acrobot-v1": {"n_step": 3, "discount": 0.9}})
    for arguments in ([], ["--env=Acrobot-v1"], ["--env", "Acrobot-v1", "--n_step=2"]):
        assert run.main(["--exp=dqn", *arguments]) == 0
    configs = [config for _, _, config, _ in chosen]
    assert [(c.env, c.n_step, c.discount) for c in configs] == [
        ("CartPole-v1", 5, 0.99),
        ("Acrobot-v1", 3, 0.9),
        ("Acrobot-v1", 2, 0.9),
    ]
    assert [
        dataclasses.replace(c, env="CartPole-v1", n_step=5, discount=0.99) for c in configs
    ] == [dqn.Config()] * 3
