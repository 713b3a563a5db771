"""The benchmark of accelerators, at tiny sizes: every row runs, and the statistics agree."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="module")
def accelerator(root):
    """Return the module `benchmarks/accelerator.py`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "benchmarks")
        patch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # set by the module otherwise
        yield importlib.import_module("accelerator")


@pytest.fixture(scope="module")
def report(accelerator, tmp_path_factory):
    """Return what `--quick` writes."""
    file = tmp_path_factory.mktemp("accelerator") / "report.json"
    before = dict(jax.config.values)
    assert accelerator.main(["--quick", f"--out={file}"]) == 0
    assert dict(jax.config.values) == before
    return json.loads(file.read_text())


def test_every_row_has_a_rate(accelerator, report):
    assert [row["row"] for row in report["rows"]] == [row.name for row in accelerator.ROWS]
    for row in report["rows"]:
        assert row["per_second"] > 0, row
        assert row["compile_seconds"] > 0
        assert row["flops"] > 0
        assert np.isfinite(row["loss"])
        assert row["of_peak"] is None  # of a CPU's peak nothing is known


def test_operations_are_those_of_all_seeds(report):
    one, many, *_ = [row for row in report["rows"] if row["row"].startswith("DQN")]
    assert many["flops"] == many["seeds"] * one["flops"]


def test_statistics_agree(accelerator, report):
    told = report["statistics"]
    assert [one["statistic"] for one in told] == list(accelerator.STATISTICS)
    assert all(one["agrees"] for one in told), told


@pytest.mark.parametrize(
    "statistic",
    ["cross-correlation of Barlow Twins", "products of the linear probe"],
)
def test_rounded_products_are_noticed(accelerator, statistic):
    """On an accelerator a product of float32 may be one of bfloat16, as it is here on purpose."""
    computation = accelerator.STATISTICS[statistic](np.random.default_rng(0))
    inputs = [jnp.asarray(x, jnp.float32) for x in computation.inputs]
    rounded = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in inputs]
    exact = computation.function(*inputs)
    assert accelerator.difference(exact, exact) == 0
    off = accelerator.difference(computation.function(*rounded), exact)
    assert off > accelerator.TOLERANCE


def test_the_difference_is_relative_to_the_largest_value(accelerator):
    reference = {"a": np.array([0.0, -4.0]), "b": np.array([1.0])}
    ours = {"a": np.array([0.2, -4.0]), "b": np.array([1.01])}
    # 0.2 of 4 in the one leaf, 0.01 of 1 in the other.
    assert accelerator.difference(ours, reference) == pytest.approx(0.05)
    assert accelerator.difference({"a": np.array([np.nan])}, {"a": np.ones(1)}) == np.inf


def test_what_does_not_fit_is_skipped_or_told(accelerator, tmp_path, capsys):
    """Rows without time left are skipped; one that fails says why, and the status is 1."""

    def too_large(quick, folder):
        raise MemoryError("RESOURCE_EXHAUSTED: out of memory\nallocating 90 GiB")

    rows = (
        accelerator.Row("dear", "images", too_large, needs=60),
        accelerator.Row("large", "images", too_large, needs=0),
    )
    file = tmp_path / "report.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerator, "ROWS", rows)
        patch.setattr(accelerator, "STATISTICS", {})
        assert accelerator.main(["--seconds=30", f"--out={file}"]) == 1
    dear, large = json.loads(file.read_text())["rows"]
    assert dear["skipped"].startswith("needs 60 s")
    assert large["failed"] == "MemoryError: RESOURCE_EXHAUSTED: out of memory"
    assert "| dear | skipped: needs 60 s" in capsys.readouterr().out


def test_peers_count_in_the_same_examples(accelerator, tmp_path):
    """A peer prints its updates per second; where it cannot run, its last line says why."""

    def interpreter(name, text):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    subject = accelerator.Subject(object, None, examples=30, peer=["mae.py", "--width=64"])
    printed = json.dumps({"updates_per_second": 2.0, "torch": "2.14", "loss": 1.0})
    works = interpreter("works", f"echo starting; echo '{printed}'")
    fails = interpreter("fails", "echo Traceback >&2; echo 'No module named torch' >&2; exit 1")
    found = accelerator.measure_peer(subject, works, 1.0, 60.0)
    assert found["peer_per_second"] == 60.0
    found = accelerator.measure_peer(subject, fails, 1.0, 60.0)
    assert found == {"no_peer": "No module named torch"}
