"""What a run leaves behind: files, facts, rows per seed, events, and compiled programs only where they belong."""

import importlib.metadata
import json
import os
import pathlib
import platform
import struct

import jax
import numpy as np
import pytest
from PIL import Image

from missing_bits.loop import train


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_run_folder_holds_what_the_readme_promises(uninterrupted):
    assert {path.name for path in uninterrupted.iterdir()} == {
        "config.json", "metrics.jsonl", "result.json", "tensorboard", "checkpoints", "learning_curve.png",
        "episode.gif", "lock",
    }  # fmt: skip
    with (
        Image.open(uninterrupted / "learning_curve.png") as curve,
        Image.open(uninterrupted / "episode.gif") as gif,
    ):
        curve.verify()
        assert gif.n_frames > 1


def test_config_json_says_every_setting(uninterrupted, tiny):
    config = json.loads((uninterrupted / "config.json").read_text())
    assert config["exp"] == "dqn"
    settings = config["config"] | {f"run.{name}": value for name, value in config["run"].items()}
    assert settings["env"] == "CartPole-v1"
    for option in [option for option in tiny[1:] if "=" in option]:
        name, value = option[2:].split("=")
        assert settings[name.replace("-", "_")] == int(value)


def test_result_json_says_the_facts(uninterrupted):
    result, last = (
        json.loads((uninterrupted / "result.json").read_text()),
        rows_of(uninterrupted)[-1],
    )
    assert (result["exp"], result["seed"], result["num_seeds"], result["env_steps"]) == (
        "dqn",
        0,
        1,
        1200,
    )
    for name in ("eval/return_mean", "eval/return_std", "eval/return_min", "eval/return_max"):
        assert result[name] == last[name] == result["seeds"][0][name]
    assert result["eval/return_min"] <= result["eval/return_mean"] <= result["eval/return_max"]
    assert 0 < result["compile_seconds"] < result["first_update_seconds"] < result["wall_seconds"]
    assert result["steps_per_second"] > 0
    assert len(result["digest"]) == 64
    assert result["versions"]["python"] == platform.python_version()
    assert result["versions"]["jax"] == importlib.metadata.version("jax")
    assert result["devices"] == [f"{jax.devices()[0].platform}:{jax.devices()[0].device_kind}"]


def test_rows_come_in_order_at_their_periods(uninterrupted):
    """A row each 20 steps, an evaluation each 120: both at multiples of the ten steps of an update."""
    rows = rows_of(uninterrupted)
    training = [row["step"] for row in rows if "train/loss" in row]
    evaluation = [row["step"] for row in rows if "eval/return_mean" in row]
    assert training == list(range(20, 1201, 20))
    assert evaluation == list(range(120, 1201, 120))
    assert [row["step"] for row in rows] == sorted(training + evaluation)
    assert {row["seed"] for row in rows} == {0}
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert all("time/seconds" in row and "time/steps_per_second" in row for row in rows)
    seconds = [row["time/seconds"] for row in rows]
    assert seconds == sorted(seconds)


def test_the_run_learned(uninterrupted):
    """At least one update was made: the loss is zero before learning starts, and moves after."""
    losses = {
        row["step"]: row["train/loss"] for row in rows_of(uninterrupted) if "train/loss" in row
    }
    assert [losses[step] for step in (20, 40)] == [0, 0]
    assert len({loss for step, loss in losses.items() if step >= 60}) > 50


def events(path):
    """Return the events of a TensorBoard file, whose lengths and checksums must agree."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event, end = data[12 : 12 + length], 16 + length
        assert struct.unpack("<I", data[8:12]) == (masked_crc32c(data[:8]),)
        assert struct.unpack("<I", data[end - 4 : end]) == (masked_crc32c(event),)
        found.append(Event.FromString(event))
        data = data[end:]
    return found


def test_events_hold_every_row(uninterrupted):
    (file,) = (uninterrupted / "tensorboard" / "seed0").iterdir()
    version, start, *events_of_rows = events(file)
    assert version.file_version == "brain.Event:2"
    assert start.step == 1
    rows = [
        {name: value for name, value in row.items() if "/" in name}
        for row in rows_of(uninterrupted)
    ]
    assert [event.step for event in events_of_rows] == [
        row["step"] for row in rows_of(uninterrupted)
    ]
    for event, row in zip(events_of_rows, rows, strict=True):
        assert {value.tag: value.simple_value for value in event.summary.value} == pytest.approx(
            row, rel=1e-6
        )


def test_several_seeds_give_a_row_each_and_their_mean(runs, tiny, uninterrupted, tmp_path):
    """The first row is the solo run's; means and intervals span the seeds."""
    folder = tmp_path / "run"
    runs.finish(*tiny, "--run.num-seeds=3", f"--run.dir={folder}")
    rows, solo = rows_of(folder), rows_of(uninterrupted)
    groups = [rows[i : i + 4] for i in range(0, len(rows), 4)]
    assert [group[0]["step"] for group in groups] == [row["step"] for row in solo]
    for *seeds, mean in groups:
        assert [row["seed"] for row in seeds] == [0, 1, 2]
        assert "seed" not in mean
        assert len({row["step"] for row in [*seeds, mean]}) == 1
        for name in [
            name for name in mean if name.startswith(("train/", "eval/")) and name in seeds[0]
        ]:
            values = [row[name] for row in seeds]
            assert mean[name] == pytest.approx(np.mean(values))
            if name == "eval/return_mean":
                assert (
                    min(values)
                    <= mean[f"{name}_low"]
                    <= mean[name]
                    <= mean[f"{name}_high"]
                    <= max(values)
                )
    for group, row in zip(groups, solo, strict=True):
        expected = {name: value for name, value in row.items() if not name.startswith("time/")}
        assert {name: group[0][name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert len({row["train/loss"] for row in groups[-2][:3]}) == 3  # all seeds differ
    result = json.loads((folder / "result.json").read_text())
    assert [row["seed"] for row in result["seeds"]] == [0, 1, 2]
    assert result["eval/return_mean"] == pytest.approx(
        np.mean([row["eval/return_mean"] for row in result["seeds"]])
    )
    assert (
        result["eval/return_mean_low"]
        <= result["eval/return_mean"]
        <= result["eval/return_mean_high"]
    )
    assert {path.name for path in (folder / "tensorboard").iterdir()} == {"seed0", "seed1", "seed2"}


def test_a_run_of_several_seeds_resumes(runs, tiny, outcome, tmp_path):
    runs.finish(*tiny, "--run.num-seeds=2", "--env-steps=600", f"--run.dir={tmp_path / 'whole'}")
    run = runs.start(*tiny, "--run.num-seeds=2", "--env-steps=600", f"--run.dir={tmp_path / 'run'}")
    run.wait_for_lines(12)
    run.kill(9)
    assert run.wait() == -9
    runs.finish("--exp=dqn", f"--run.dir={tmp_path / 'run'}", "--run.resume")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("wanted", [True, False])
def test_compiled_programs_are_kept_unless_unwanted(wanted, runs, tiny, tmp_path):
    cache = tmp_path / "cache"
    option = [] if wanted else ["--run.no-compilation-cache"]
    environ = {"XDG_CACHE_HOME": str(cache), "HOME": str(tmp_path / "home")}
    runs.finish(*tiny, "--env-steps=100", *option, f"--run.dir={tmp_path / 'run'}", **environ)
    assert any((cache / "missing_bits" / "jax").glob("*")) == wanted
    assert cache.exists() == wanted
    assert not list((tmp_path / "home").rglob("*jax*"))


@pytest.fixture
def configured(monkeypatch):
    """Return what the code under test tells JAX to do with compiled programs."""
    told = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__, raising=True)
    monkeypatch.setattr(train.warnings, "filterwarnings", lambda *_, **__: None)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    return told


@pytest.mark.parametrize("xdg", [None, "", "/elsewhere"])
def test_where_compiled_programs_go(xdg, configured, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    if xdg is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    train._keep_compiled_programs()
    expected = pathlib.Path(xdg) if xdg else tmp_path / ".cache"
    assert configured["jax_compilation_cache_dir"] == os.fspath(expected / "missing_bits" / "jax")


def test_a_cache_that_the_environment_names_stays(configured, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/theirs")
    train._keep_compiled_programs()
    assert configured == {}
