"""Methods from outside the repository, and the loop as a library: as the documents say, to the letter."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from missing_bits import run


def code_blocks(file: pathlib.Path, language: str) -> list[str]:
    """Return the blocks of code of a language in a Markdown file, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", file.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def vicreg(root, tmp_path, monkeypatch):
    """Return the folder that holds my_package/vicreg.py, written as the document says."""
    (tmp_path / "my_package").mkdir()
    source = code_blocks(root / "docs" / "adding_a_method.md", "python")[0]
    (tmp_path / "my_package" / "vicreg.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


def test_a_method_of_ones_own_trains_by_its_name(vicreg, root):
    """The command of the document, with the settings with which the method runs in a moment."""
    command = code_blocks(root / "docs" / "adding_a_method.md", "sh")[0].split()
    assert command[:3] == ["PYTHONPATH=.", "python", "run.py"]
    tiny = ["--data=digits", "--network=vit_nano", "--updates=12", "--batch-size=16"]
    tiny += ["--projector-sizes", "32", "32", "--probe-images=100", "--run.eval-period=12"]
    assert run.main([*command[3:], *tiny, "--run.dir=mine"]) == 0
    result = json.loads((vicreg / "mine" / "result.json").read_text())
    assert result["exp"] == "my_package.vicreg:VICReg"
    assert {"eval/knn_accuracy", "baseline/random_knn_accuracy"} <= result.keys()
    assert (vicreg / "mine" / "encoder" / "seed0.safetensors").exists()


def test_vicreg_is_what_its_paper_says(vicreg):
    """By hand, for z = (1, 0), (-1, 0), (0, 2), (0, -2): means 0; squares sum to 2 and 8, so
    variances of 2/3 and 8/3 over B - 1 = 3; no covariance. Only the first deviation,
    sqrt(2/3) = 0.8165, is below 1: v = (1 - 0.8165) / 2 (to the epsilon under the root)."""
    import jax.numpy as jnp
    from my_package.vicreg import spread

    variance, covariance = spread(jnp.array([[1.0, 0], [-1, 0], [0, 2], [0, -2]]))
    assert float(variance) == pytest.approx((1 - (2 / 3) ** 0.5) / 2, abs=1e-4)
    assert float(covariance) == pytest.approx(0, abs=1e-7)
    twice = jnp.array(
        [[1.0, 1], [-1, -1]]
    )  # one feature again: covariance 2 / 1, twice, over D = 2
    assert float(spread(twice)[1]) == pytest.approx(2**2 * 2 / 2)


def test_its_passport_runs_by_one_command(vicreg, root):
    command = code_blocks(root / "docs" / "adding_a_method.md", "sh")[1].split()
    assert command[:2] == ["PYTHONPATH=.", "pytest"]
    environ = os.environ | {"PYTHONPATH": str(vicreg)}
    alone = ["-q", "-p", "no:cacheprovider", "--numprocesses=0"]
    arguments = [sys.executable, "-m", "pytest", *alone, *command[2:]]
    done = subprocess.run(arguments, cwd=root, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "my_package.vicreg:VICReg" in done.stdout or " passed" in done.stdout


def test_the_example_of_the_readme_runs(root, tmp_path, monkeypatch, capsys):
    """The loop as a library; the README's lines, in a folder of their own."""
    examples = [code for code in code_blocks(root / "README.md", "python") if "train(" in code]
    monkeypatch.chdir(tmp_path)
    exec(compile(examples[0], "README.md", "exec"), {})
    assert float(capsys.readouterr().out.splitlines()[-1]) > 0
    assert (tmp_path / "runs" / "called" / "result.json").exists()
