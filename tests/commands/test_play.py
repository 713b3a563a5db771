"""Trained agents at the door: their returns, pictures, policies for elsewhere; mistakes."""

import json
import shutil
import sys

import gymnasium as gym
import jax
import numpy as np
import pytest
from PIL import Image

from missing_bits import options, run
from missing_bits.agents import policies
from missing_bits.agents.dqn import DQN, TINY, Config
from missing_bits.commands import play
from missing_bits.loop.config import RunConfig
from missing_bits.loop.train import train

PROTOCOL = {"termination": "the environment's own", "time_limit": 500, "episodes": 2, "epsilon": 0}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The folder of a finished run of two seeds, made by the loop."""
    folder = tmp_path_factory.mktemp("play") / "run"
    config = options.make(Config, **TINY, env="jax/CartPole-v1")
    train(DQN, config, RunConfig(dir=str(folder), num_seeds=2, seed=5), name="dqn")
    return folder


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def handed_over(folder, policy, protocol, **facts):
    """A run of a fresh policy."""
    params = jax.device_get(policy.init(jax.random.key(0)))
    file = folder / "policy" / "seed0.safetensors"
    policies.save(file, policy, params, {"protocol": protocol, **facts})
    return folder


def says(capsys, *arguments):
    """What the command prints, line by line, and what it notes."""
    assert run.main(["play", *map(str, arguments)]) == 0
    said = capsys.readouterr()
    return said.out.splitlines(), said.err


def test_a_finished_run_leaves_policies_and_its_protocol(learned):
    result = json.loads((learned / "result.json").read_text())
    assert result["protocol"].items() >= (PROTOCOL | {"seeds": [5, 6], "stickiness": 0}).items()
    assert sorted(path.name for path in (learned / "policy").iterdir()) == [
        f"seed{seed}.{kind}" for seed in (5, 6) for kind in ("json", "safetensors")
    ]
    for i, seed in enumerate((5, 6)):
        card = policies.load(learned, seed).card
        assert (card["exp"], card["seed"], card["step"]) == ("dqn", seed, 72)
        assert card["scores"] == result["seeds"][i]
        assert card["protocol"].items() >= PROTOCOL.items()
        assert card["config"]["envs"]["env"] == "jax/CartPole-v1"


def test_resuming_a_run_of_before_there_were_policies_makes_them(learned, tmp_path):
    folder = shutil.copytree(learned, tmp_path / "run")
    before = policies.load(folder)
    shutil.rmtree(folder / "policy")
    config = options.make(Config, **TINY, env="jax/CartPole-v1")
    again = RunConfig(dir=str(folder), num_seeds=2, seed=5, resume=True)
    train(DQN, config, again, name="dqn")
    after = policies.load(folder)
    assert after.card == before.card
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)


def test_what_it_prints(learned, capsys):
    lines, notes = says(capsys, f"--from={learned}", "--episodes=4")
    score = policies.load(learned).card["scores"]["eval/return_mean"]
    assert lines[0] == f"dqn on jax/CartPole-v1, seed 5, step 72, return_mean {score:g}"
    assert lines[1] == (
        "protocol: termination the environment's own, time limit 500 steps, action set 2 actions, "
        "stickiness 0, epsilon 0, episodes 4"
    )
    totals = []
    for i, line in enumerate(lines[2:6]):
        episode, result = line.split(": return ")
        total, steps = result.removesuffix(" steps").split(", ")
        assert (episode, total) == (f"episode {i}", steps), "each step of CartPole is worth 1"
        totals.append(float(total))
    assert 8 <= min(totals) <= max(totals) <= 500
    assert lines[6:] == [f"mean return {np.mean(totals):g} of 4 episodes"]
    assert notes.startswith("note: there is no display, so no window is opened; --out=FILE.gif")
    assert says(capsys, f"--from={learned}", "--episodes=4")[0] == lines
    other = says(capsys, f"--from={learned}", "--episodes=4", "--seed=1")[0]
    assert other[:2] == lines[:2]
    assert other[2:] != lines[2:]


def test_a_gif_of_all_episodes(learned, tmp_path, capsys):
    file = learned / "policy" / "seed6.safetensors"
    out = tmp_path / "episodes.gif"
    lines, notes = says(capsys, f"--from={file}", "--episodes=2", f"--out={out}")
    assert (lines[-1], notes) == (f"Episodes: {out}", "")
    steps = [int(line.split(", ")[1].removesuffix(" steps")) for line in lines[2:4]]
    with Image.open(out) as picture:
        assert picture.n_frames == sum(min(count + 1, 250) for count in steps)


@pytest.mark.parametrize("env", ["CartPole-v1", "jax/Asterix-v1"])
def test_environments_of_both_kinds_are_drawn(env, tmp_path, capsys):
    """MinAtar in the colors of its planes."""
    envs = play.environment(policies.Loaded(None, {}, {}), play.Config("", env=env)).find(1)
    policy = policies.of_network(envs.observation_space, envs.num_actions, hidden_sizes=(4,))
    folder = handed_over(tmp_path / "run", policy, {**envs.protocol, "cut_at": 12})
    out = tmp_path / "episodes.gif"
    lines, _ = says(capsys, f"--from={folder}", "--episodes=1", f"--out={out}")
    assert "cut at 12 steps" in lines[1]
    with Image.open(out) as picture:
        assert picture.n_frames <= 13
        picture.seek(picture.n_frames - 1)
        colors = {color for _, color in picture.convert("RGB").crop((0, 40, 300, 200)).getcolors()}
    assert len(colors) >= 2


def test_a_video(learned, tmp_path, capsys):
    writer = pytest.importorskip("imageio_ffmpeg")
    out = tmp_path / "episodes.mp4"
    lines, _ = says(capsys, f"--from={learned}", "--episodes=1", f"--out={out}")
    steps = int(lines[2].split(", ")[1].removesuffix(" steps"))
    count, seconds = writer.count_frames_and_secs(str(out))
    assert count == min(steps + 1, 250) + 38  # the last one is seen for 1.5 seconds more
    assert seconds == pytest.approx(count / 25, abs=0.1)


def test_a_video_without_its_writer_says_what_to_install(learned, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    refuses(
        capsys,
        [f"--from={learned}", f"--out={tmp_path}/a.mp4"],
        "pip install -e '.[video]'",
        ".gif",
    )


def test_where_there_is_a_display_a_window_shows_it(learned, capsys, monkeypatch):
    """SDL's dummy driver stands for the display."""
    shown = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    window = gym.wrappers.HumanRendering._render_frame

    def render(self):
        shown.append(self.env.render().shape)
        window(self)

    monkeypatch.setattr(gym.wrappers.HumanRendering, "_render_frame", render)
    lines, notes = says(capsys, f"--from={learned}", "--episodes=1")
    assert notes == ""
    steps = int(lines[2].split(", ")[1].removesuffix(" steps"))
    assert shown == [(400, 600, 3)] * (steps + 1)


def test_another_environment_with_the_same_spaces(learned, capsys):
    """Gymnasium's own CartPole; pushing harder is an argument of no such environment."""
    lines, _ = says(capsys, f"--from={learned}", "--episodes=1", "--env=CartPole-v1")
    assert lines[2].startswith("episode 0: return ")
    kwargs = '--env-kwargs={"max_episode_steps": 5}'
    lines, _ = says(capsys, f"--from={learned}", "--episodes=1", kwargs)
    assert "time limit 5 steps" in lines[1]
    assert lines[2] == "episode 0: return 5, 5 steps"


def test_the_epsilon_of_evaluations_is_played(learned, tmp_path, capsys):
    """A policy that always pushes one way falls within 11 steps; at random it lasts longer."""
    policy = policies.load(learned).policy
    params = jax.tree.map(np.zeros_like, policies.load(learned).params)
    protocol = {"env": "jax/CartPole-v1", "epsilon": 0.0}
    for epsilon in (0.0, 1.0):
        file = tmp_path / f"{epsilon}.safetensors"
        policies.save(file, policy, params, {"protocol": {**protocol, "epsilon": epsilon}})
        lines, _ = says(capsys, f"--from={file}", "--episodes=8")
        longest = max(int(line.split(", ")[1].split()[0]) for line in lines[2:10])
        assert (longest > 11) == (epsilon == 1.0)
        assert f"epsilon {epsilon:g}" in lines[1]


def test_an_export(learned, tmp_path, capsys):
    lines, _ = says(capsys, f"--from={learned}", f"--export={tmp_path}/policy.bin")
    assert lines == [f"Policy: {tmp_path}/policy.bin, what it is: {tmp_path}/policy.json"]
    loaded = policies.load(learned)
    assert json.loads((tmp_path / "policy.json").read_text()) == loaded.card
    observations = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    exported = jax.export.deserialize((tmp_path / "policy.bin").read_bytes())
    np.testing.assert_array_equal(exported.call(observations), loaded(observations))


def test_an_export_replaces_an_export_and_nothing_else(learned, tmp_path, capsys):
    says(capsys, f"--from={learned}", f"--export={tmp_path}/config.bin")
    says(capsys, f"--from={learned}", f"--export={tmp_path}/config.bin")
    (tmp_path / "config.bin").unlink()  # as in the folder of a run
    card = (tmp_path / "config.json").read_bytes()
    words = "writes config.bin and config.json, but there is only one of them"
    refuses(capsys, [f"--from={learned}", f"--export={tmp_path}/config.bin"], words)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_bytes() == card


def test_an_environment_without_an_end_is_cut(learned):
    """A run whose time limit came first tells of no cut; another environment may have no limit."""
    policy = policies.load(learned)
    assert policy.card["protocol"]["cut_at"] is None
    found = play.environment(policy, play.Config("", env="jax/CartPole-v1"))
    assert found.eval_steps == 27_000


def refuses(capsys, arguments, *words):
    assert run.main(["play", *map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--episodes=0"], "--episodes is 0; it must be at least 1"),
        (["--seed=-1"], "--seed is -1; it must be at least 0"),
        (["--out=film.avi"], "--out=film.avi: name a file that ends in .gif or .mp4"),
        (["--out=nowhere/a.gif"], "there is no folder nowhere"),
        (
            ["--out=a.gif", "--episodes=501"],
            "--episodes is 501; with --out, whose pictures are all",
        ),
        (["--export=nowhere/a.bin"], "--export=nowhere/a.bin: name a file such as policy.bin"),
        (["--export=a.bin", "--out=a.gif"], "plays nothing; leave out --out"),
        (["--env=CartPol-v1"], "Did you mean CartPole-v1?"),
        (["--env=Acrobot-v1"], "has observations (6,) float32 and 3 actions; this policy plays"),
        (["--env-kwargs=5"], "--env-kwargs=5 is no JSON object"),
        (["--fps=5"], "--fps is not an option"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, words, learned, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    refuses(capsys, [f"--from={learned}", *arguments], words)


def test_runs_without_a_policy(tmp_path, capsys):
    refuses(capsys, [f"--from={tmp_path}"], "holds no policy", "--run.resume")
    refuses(capsys, [f"--from={tmp_path}/none"], "is no folder of a run")
    refuses(capsys, [], "play needs --from: python run.py play --from=RUN")


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ({}, "does not tell its environment. Name it: --env="),
        ({"env": 3}, "its protocol's env has a wrong type"),
        ({"env": "CartPole-v1", "wrappers": "flatten"}, "its protocol's wrappers has a wrong type"),
        ({"env": "CartPole-v1", "epsilon": 2.0}, "its epsilon is 2.0; it must lie between 0 and 1"),
        (
            {"env": "CartPole-v1", "cut_at": -1},
            "its episodes are cut at -1 steps; it must be at least 1",
        ),
        ({"env": "CartPole-v1", "env_kwargs": {"id": "x"}}, "sets id, which every environment"),
        ({"env": "Cart\x1b[31mPole-v1"}, "--env=Cart?[31mPole-v1 is not an environment"),
        ({"env": "evil:Maze-v0"}, "--env=evil:Maze-v0 is code, and it is a file that names it"),
        ({"env": "CartPole-v1", "wrappers": ["evil:wrap"]}, "--wrappers=evil:wrap is code"),
    ],
)
def test_what_a_card_says_is_input(protocol, words, learned, tmp_path, capsys):
    policy = policies.load(learned).policy
    refuses(capsys, [f"--from={handed_over(tmp_path / 'run', policy, protocol)}"], words)
