"""The commands that the README and the chapter tell a reader to type: each is one that is taken."""

import pathlib
import re
import shlex

import pytest

from missing_bits.commands import (
    command_line,
    compare,
    fill,
    play,
    report,
    runs,
    sample,
    sample_images,
    sweep,
    sweep_trials,
)

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "chapter.md")
DOOR = "python run.py "
CONFIGS = {"fill": fill, "play": play, "compare": compare, "report": report, "runs": runs}
MINE = {"settings.toml": 'exp = "dqn"\nlearning-rate = 1e-3\n'}  # files that the documents name


def commands(file: pathlib.Path) -> list[str]:
    """Return what follows `python run.py` in the blocks and between the backticks of a document."""
    text = file.read_text().replace("\\\n", " ")
    lines = re.findall(r"`([^`\n]+)`", text)
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        lines += block.splitlines()
    return [line.split(DOOR)[1] for line in lines if DOOR in line]


def take(arguments: list[str]) -> None:
    """Read a command line as far as the door does before it looks at runs and data."""
    name, rest = arguments[0], arguments[1:]
    if name in CONFIGS:
        command_line.of_command(name, CONFIGS[name].Config, rest)
    elif name == "sample":
        images = any(option.startswith(("--out", "--interpolate")) for option in rest)
        kind = sample_images if images else sample
        command_line.of_command(name, kind.Config, rest)
    elif name == "sweep":
        mine, fixed = sweep._split(rest)
        config = command_line.of_command(name, sweep.Config, mine)
        sweep_trials.checked(sweep._asked(config, fixed))
    elif name != "--list":
        assert command_line.parse(arguments) is not None


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.stem)
def test_commands_of_documents_are_taken(file, tmp_path, monkeypatch, capsys):
    """Nothing is renamed without its documents. Help ends by itself; the others are read whole."""
    monkeypatch.chdir(tmp_path)
    for name, text in MINE.items():
        (tmp_path / name).write_text(text)
    found = commands(file)
    assert len(found) > 10
    for command in found:
        arguments = shlex.split(command.split(" > ")[0], comments=True)
        if "--run.resume" in arguments:  # of a run that is not here
            arguments.remove("--run.resume")
        if "--help" in arguments:
            with pytest.raises(SystemExit, match="0"):
                take(arguments)
        else:
            take(arguments)
    capsys.readouterr()


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.stem)
def test_files_that_documents_name_are_there(file):
    """Links lead to files of the repository; pictures too."""
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text())
    assert targets
    missing = [target for target in targets if not (file.parent / target).exists()]
    assert not missing
