"""What a real run leaves behind: files, facts, rows per seed, events; where programs are kept."""

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

from missing_bits.loop import process
from missing_bits.loop.folder import read_rows as rows_of


def test_the_run_folder_holds_what_the_readme_promises(uninterrupted):
    assert {path.name for path in uninterrupted.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "result.json",
        "tensorboard",
        "checkpoints",
        "policy",
        "learning_curve.png",
        "episode.gif",
        "lock",
    }
    with (
        Image.open(uninterrupted / "learning_curve.png") as curve,
        Image.open(uninterrupted / "episode.gif") as gif,
    ):
        curve.verify()
        assert gif.n_frames > 1


def test_config_json_says_every_setting(uninterrupted, tiny):
    config = json.loads((uninterrupted / "config.json").read_text())
    assert config["exp"] == "dqn"
    settings = config["config"] | config["config"]["envs"]
    settings |= {f"run.{name}": value for name, value in config["run"].items()}
    assert settings["env"] == "CartPole-v1"
    for option in [option for option in tiny[1:] if "=" in option]:
        name, value = option[2:].split("=")
        assert settings[name.replace("-", "_")] == int(value)
    # And which differ from the defaults: this environment has no preset.
    given = {option[2:].partition("=")[0] for option in tiny if not option.startswith("--run.")}
    assert set(config["options"]) == given - {"exp", ""}
    assert config["options"]["hidden-sizes"] == [8]


def test_result_json_says_the_facts(uninterrupted):
    result = json.loads((uninterrupted / "result.json").read_text())
    last = rows_of(uninterrupted).rows[-1]
    facts = {"exp": "dqn", "seed": 0, "num_seeds": 1, "env_steps": 1200}
    assert {name: result[name] for name in facts} == facts
    for name in ("eval/return_mean", "eval/return_std", "eval/return_min", "eval/return_max"):
        assert result[name] == last[name] == result["seeds"][0][name]
    assert result["eval/return_min"] <= result["eval/return_mean"] <= result["eval/return_max"]
    assert 0 < result["compile_seconds"] < result["first_update_seconds"] < result["wall_seconds"]
    assert 0 < result["evaluation_seconds"] < result["wall_seconds"]
    assert result["steps_per_second"] > 0
    assert len(result["digest"]) == 64
    assert result["versions"]["python"] == platform.python_version()
    assert result["versions"]["jax"] == importlib.metadata.version("jax")
    assert result["devices"] == [f"{jax.devices()[0].platform}:{jax.devices()[0].device_kind}"]


def test_rows_come_in_order_at_their_periods(uninterrupted):
    """A row each 20 steps, an evaluation each 120: both at multiples of an update's steps."""
    rows = rows_of(uninterrupted).rows
    training = [row["step"] for row in rows if "train/epsilon" in row]
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
    """There is no loss before learning starts, at step 60, and it moves after."""
    rows = [row for row in rows_of(uninterrupted).rows if "train/epsilon" in row]
    losses = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert sorted(losses) == list(range(60, 1201, 20))
    assert len(set(losses.values())) > 50


def events(path):
    """Return the events of a TensorBoard file, whose lengths and checksums must agree."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    data = path.read_bytes()
    found = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = data[12 : 12 + length]
        end = 16 + length
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
    rows = rows_of(uninterrupted).rows
    assert [event.step for event in events_of_rows] == [row["step"] for row in rows]
    for event, row in zip(events_of_rows, rows, strict=True):
        figures = {name: value for name, value in row.items() if "/" in name}
        seen = {value.tag: value.simple_value for value in event.summary.value}
        assert seen == pytest.approx(figures, rel=1e-6)


def test_several_seeds_give_a_row_each_and_their_mean(runs, tiny, uninterrupted, tmp_path):
    """The first row is the solo run's; means and intervals span the seeds."""
    folder = tmp_path / "run"
    runs.finish(*tiny, "--run.num-seeds=3", f"--run.dir={folder}")
    rows = rows_of(folder).rows
    solo = rows_of(uninterrupted).rows
    groups = [rows[i : i + 4] for i in range(0, len(rows), 4)]
    assert [group[0]["step"] for group in groups] == [row["step"] for row in solo]
    for *seeds, mean in groups:
        assert [row["seed"] for row in seeds] == [0, 1, 2]
        assert "seed" not in mean
        assert len({row["step"] for row in [*seeds, mean]}) == 1
        for name in [name for name in mean if name.startswith(("train/", "eval/"))]:
            check_mean(name, mean, [row[name] for row in seeds if name in row])
    for group, row in zip(groups, solo, strict=True):
        expected = {name: value for name, value in row.items() if not name.startswith("time/")}
        assert {name: group[0][name] for name in expected} == pytest.approx(expected, rel=1e-4)
    last = groups[-2][:3]
    assert len({row["train/loss"] for row in last}) == 3, "all seeds differ"
    result = json.loads((folder / "result.json").read_text())
    assert [row["seed"] for row in result["seeds"]] == [0, 1, 2]
    name = "eval/return_mean"
    check_mean(name, result, [row[name] for row in result["seeds"]])
    assert {path.name for path in (folder / "tensorboard").iterdir()} == {"seed0", "seed1", "seed2"}


def check_mean(name, row, values):
    """The mean of the headline has an interval."""
    if not values:  # an end of the interval
        assert name in ("eval/return_mean_low", "eval/return_mean_high")
        return
    assert row[name] == pytest.approx(np.mean(values))
    if name == "eval/return_mean":
        ends = [min(values), row[f"{name}_low"], row[name], row[f"{name}_high"], max(values)]
        assert ends == sorted(ends)


@pytest.fixture
def configured(monkeypatch):
    """Return what the code under test tells JAX to do with compiled programs."""
    told = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__, raising=True)
    monkeypatch.setattr(process.warnings, "filterwarnings", lambda *_, **__: None)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    return told


@pytest.mark.parametrize("xdg", [None, "", "/elsewhere"])
def test_where_compiled_programs_go(xdg, configured, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    if xdg is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    process.keep_compiled_programs()
    expected = pathlib.Path(xdg) if xdg else tmp_path / ".cache"
    assert configured["jax_compilation_cache_dir"] == os.fspath(expected / "missing_bits" / "jax")


def test_a_cache_that_the_environment_names_stays(configured, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/theirs")
    process.keep_compiled_programs()
    assert configured == {}
