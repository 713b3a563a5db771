"""The command line: flags, presets, rows of the table, a run to resume, and files of options."""

import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import Annotated

import pytest
import tyro

from missing_bits import options
from missing_bits.agents import dqn
from missing_bits.commands import command_line
from missing_bits.errors import UserError
from missing_bits.loop.config import RunConfig

TOY = '''
"""A method that learns nothing."""

from dataclasses import dataclass

from missing_bits.options import Flat, row


@dataclass(frozen=True)
class Inner:
    """Options within options."""

    flip: float = row(0.5)
    """A fraction."""
    on: bool = True
    """A switch."""
    sizes: tuple[int, ...] = (1, 2)
    """Whole numbers."""


@dataclass(frozen=True)
class Beside:
    """Options beside those of the configuration."""

    data: str = "a"
    """The subject."""
    updates: int = 10
    """Budget, in updates."""

    def modules(self) -> list[str]:
        return [self.data] if ":" in self.data else []


@dataclass(frozen=True)
class Config:
    """Options of a toy."""

    beside: Flat[Beside] = Beside()
    inner_views: Inner = Inner()
    """A group."""


PRESETS = {"b": {"updates": 20, "inner_views": {"flip": 0.25, "sizes": (3,)}}}
TINY = {}


class Toy:
    subject = "data"
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The module of a toy method that lies outside this repository."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "toy_method.py").write_text(TOY)
    monkeypatch.syspath_prepend(folder)
    import toy_method

    yield toy_method
    del sys.modules["toy_method"]


@pytest.fixture
def parse(toy):
    """The function that gives a toy's configuration, and that of the run."""

    def parse(*arguments):
        chosen = command_line.parse(["--exp=toy_method:Toy", *map(str, arguments)])
        assert chosen.found.method is toy.Toy
        assert chosen.found.name == "toy_method:Toy"
        return chosen.config, chosen.run

    return parse


OF_CARTPOLE = options.make(dqn.Config, **dqn.PRESETS["CartPole-v1"])


def parse_dqn(*arguments):
    chosen = command_line.parse(["--exp=dqn", *arguments])
    assert chosen.found.method is dqn.DQN
    return chosen.config, chosen.run


@pytest.mark.parametrize("spelling", ["--learning-rate=0.5", "--learning_rate=0.5"])
def test_hyphens_and_underscores_are_alike(spelling):
    expected = options.replace(OF_CARTPOLE, {"learning_rate": 0.5})
    assert parse_dqn(spelling) == (expected, RunConfig())


def test_options_of_the_run_and_of_the_experiment_do_not_mix():
    config, run = parse_dqn(
        "--run.seed", "3", "--run.no_compilation_cache", "--no-huber", "--hidden-sizes", "5", "6"
    )
    assert run == RunConfig(seed=3, compilation_cache=False)
    assert config == options.replace(OF_CARTPOLE, {"huber": False, "hidden_sizes": (5, 6)})


def test_a_preset_reaches_into_a_group_and_flags_override_it(parse, toy):
    config, _ = parse("--data=b", "--inner-views.no-on", "--inner_views.flip=1")
    expected = {"data": "b", "updates": 20, "inner_views": toy.Inner(1.0, False, (3,))}
    assert config == options.make(toy.Config, **expected)
    assert options.from_json(toy.Config, options.to_json(config), "file") == config
    assert parse("--data", "c")[0] == options.make(toy.Config, data="c")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("--data=a", "--data=b"),
        ("--inner-views.flip=1", "--inner_views.flip=2"),
        ("--inner-views.on", "--inner-views.no-on"),
        ("--run.seed=1", "--run.seed=1"),
    ],
)
def test_an_option_given_twice_is_refused(first, second, parse):
    """Of two, one would be lost in silence."""
    with pytest.raises(UserError, match=f"{first} and {second} are the same option"):
        parse(first, second)


def test_an_experiment_is_named_once():
    with pytest.raises(UserError, match="--exp=dqn and --exp=mae are the same option"):
        command_line.parse(["--exp=dqn", "--exp=mae"])


def test_a_file_may_write_whole_numbers_with_an_exponent(parse, tmp_path):
    (tmp_path / "mine.toml").write_text("updates = 3e1\n")
    assert parse(f"--config={tmp_path / 'mine.toml'}")[0].beside.updates == 30


def test_a_large_whole_number_keeps_its_digits():
    config, _ = parse_dqn("--replay-capacity=12345678901234567890")
    assert config.replay_capacity == 12345678901234567890


def test_whole_numbers_may_be_written_with_an_exponent(parse):
    config, run = parse("--updates=1e3", "--run.log-period", "2.5e2", "--run.seed=7e0")
    assert config.beside.updates == 1000
    assert (run.log_period, run.seed) == (250, 7)
    with pytest.raises(UserError, match=r"1\.5e0"):
        parse("--updates=1.5e0")


@pytest.mark.parametrize(
    ("typed", "option"),
    [("lr=1", "learning-rate"), ("gamma=1", "discount"), ("gpus=2", "run.devices")],
)
def test_what_people_type_leads_to_the_option(typed, option):
    with pytest.raises(UserError, match=rf"Did you mean --{option}\?"):
        parse_dqn(f"--{typed}")


@pytest.mark.parametrize("argument", ["--inner-views.flop=1", "--inner.flip=1", "--flip=1"])
def test_a_misspelt_option_within_options_names_the_closest(argument, parse):
    with pytest.raises(UserError, match=r"Did you mean --inner-views\.flip\?"):
        parse(argument)


@pytest.fixture
def earlier(tmp_path, toy):
    """The folder of an earlier run of the toy."""

    def write(**settings):
        config = options.to_json(options.make(toy.Config, **settings))
        run = options.to_json(RunConfig(dir="elsewhere", seed=4))
        saved = {"exp": "toy_method:Toy", "config": config, "run": run}
        (tmp_path / "config.json").write_text(json.dumps(saved))
        return tmp_path

    return write


def test_a_resumed_run_has_the_options_it_was_begun_with(parse, earlier, toy):
    """Not those of a preset; where it lies is said anew."""
    folder = earlier(data="b", updates=7)
    config, run = parse("--run.resume", f"--run.dir={folder}")
    assert config == options.make(toy.Config, data="b", updates=7)
    assert run == RunConfig(dir=str(folder), seed=4, resume=True)


def test_a_resumed_run_refuses_a_changed_option_within_options(parse, earlier):
    folder = earlier()
    with pytest.raises(UserError, match=r"--inner-views\.flip is 1\.0, was 0\.5"):
        parse("--run.resume", f"--run.dir={folder}", "--inner-views.flip=1")
    with pytest.raises(UserError, match=r"--data is b, was a"):
        parse("--run.resume", f"--run.dir={folder}", "--data=b")


def test_only_the_budget_of_a_resumed_run_may_grow(parse, earlier):
    folder = earlier()
    config, _ = parse("--run.resume", f"--run.dir={folder}", "--updates=11")
    assert config.beside.updates == 11
    with pytest.raises(UserError, match=r"--updates is 9, was 10.*only the budget may grow"):
        parse("--run.resume", f"--run.dir={folder}", "--updates=9")


def test_where_a_resumed_run_starts_may_be_said(parse, earlier):
    folder = earlier()
    _, run = parse("--run.resume", f"--run.dir={folder}", "--run.from=best")
    assert run.start == "best"


@pytest.mark.parametrize("wrong", ["many", None, [], {}, True, 1.5])
def test_a_resumed_run_with_a_value_of_another_kind(wrong, parse, earlier):
    folder = earlier(updates=wrong)
    with pytest.raises(UserError, match="updates") as refused:
        parse("--run.resume", f"--run.dir={folder}")
    assert str(folder) in str(refused.value)


def test_options_of_a_file_reach_into_groups_and_flags_win(parse, tmp_path, toy):
    """Tables are groups; the file's subject chooses the preset, over which its options stand."""
    (tmp_path / "mine.toml").write_text(
        'data = "b"\nupdates = 30\n[inner_views]\non = false\nsizes = [4, 5]\n[run]\nseed = 3\n'
    )
    config, run = parse(f"--config={tmp_path / 'mine.toml'}", "--inner-views.sizes", 6)
    expected = {"data": "b", "updates": 30, "inner_views": toy.Inner(0.25, False, (6,))}
    assert config == options.make(toy.Config, **expected)
    assert run == RunConfig(seed=3)


def test_flags_choose_the_preset_before_a_file(parse, tmp_path):
    (tmp_path / "mine.toml").write_text('data = "b"\n')
    assert parse(f"--config={tmp_path / 'mine.toml'}")[0].beside.updates == 20
    assert parse(f"--config={tmp_path / 'mine.toml'}", "--data=a")[0].beside.updates == 10


def test_a_file_and_flags_may_name_a_run_to_resume(parse, earlier, tmp_path):
    folder = earlier(updates=7)
    (tmp_path / "mine.toml").write_text('[run]\nresume = true\ndir = "nowhere"\n')
    config, run = parse(f"--config={tmp_path / 'mine.toml'}", f"--run.dir={folder}")
    assert config.beside.updates == 7
    assert (run.dir, run.resume) == (str(folder), True)


def test_options_of_an_earlier_run_but_for_what_is_free(parse, earlier, toy):
    """Where it lay is not taken over; its seed is. The empty text, lists and switches survive."""
    folder = earlier(data="", updates=7, inner_views={"on": False, "sizes": ()})
    config, run = parse(f"--config={folder / 'config.json'}", "--inner-views.flip=1")
    assert config == options.make(
        toy.Config, data="", updates=7, inner_views=toy.Inner(1.0, False, ())
    )
    assert run == RunConfig(seed=4)


def test_a_method_that_only_a_file_names_is_not_imported(earlier, toy):
    """Its module is in use here, but the answer is the same."""
    file = earlier() / "config.json"
    with pytest.raises(UserError, match=r"toy_method:Toy.*not imported.*--exp=toy_method:Toy"):
        command_line.parse([f"--config={file}"])
    with pytest.raises(UserError, match=r"is of --exp=toy_method:Toy, not dqn"):
        command_line.parse([f"--config={file}", "--exp=dqn"])


@pytest.fixture
def filed(tmp_path):
    """The option of a file that names code."""
    (tmp_path / "mine.toml").write_text('data = "some:code"\n')
    return f"--config={tmp_path / 'mine.toml'}"


@pytest.mark.parametrize("flags", [[], ["--run.dir=awesome:code"], ["--run.dir=some:code2"]])
def test_code_that_only_a_file_names_is_refused(flags, parse, filed):
    """Also where another value has the same letters among its own."""
    with pytest.raises(UserError, match="some:code is code, and it is a file that names it"):
        parse(filed, *flags)


@pytest.mark.parametrize(
    "flags", [["--data=some:code"], ["--data", "some:code"], ["--data=other:code"]]
)
def test_code_that_flags_name_is_not(flags, parse, filed):
    assert parse(filed, *flags)[0].beside.data == flags[-1].removeprefix("--data=")


def test_code_that_only_an_earlier_run_names_is_refused(parse, earlier):
    folder = earlier(data="some:code")
    for arguments in (
        ["--run.resume", f"--run.dir={folder}"],
        [f"--config={folder / 'config.json'}"],
    ):
        with pytest.raises(UserError, match="some:code is code"):
            parse(*arguments)
        assert parse(*arguments, "--data=some:code")[0].beside.data == "some:code"


def test_code_that_a_method_itself_names_is_not(parse, toy, earlier, monkeypatch):
    """In its defaults or a preset: the method is imported anyway. Here 7 stands for code."""
    preset = {"inner_views": {"sizes": (7,)}}
    monkeypatch.setitem(toy.PRESETS, "c", preset)
    monkeypatch.setattr(
        toy.Inner, "modules", lambda inner: [7] if 7 in inner.sizes else [], raising=False
    )
    assert parse("--data=c")[0].inner_views.sizes == (7,)
    folder = earlier(data="c", **preset)
    assert parse("--run.resume", f"--run.dir={folder}")[0].inner_views.sizes == (7,)
    folder = earlier(data="a", **preset)
    with pytest.raises(UserError, match=r"--inner-views\.sizes=7 is code"):
        parse("--run.resume", f"--run.dir={folder}")


def test_without_an_experiment_there_is_nothing_to_parse():
    assert command_line.parse([]) is None
    assert command_line.parse(["--run.seed=3"]) is None


@dataclass(frozen=True)
class Command:
    """Does something."""

    run: Annotated[str, tyro.conf.arg(name="from")]
    """Where."""
    text: str
    """What."""
    top: int = 5
    """How often."""


def of_command(*arguments):
    return command_line.of_command("fill", Command, arguments)


def test_options_of_a_command():
    assert of_command("--from=there", "--text", "a b") == Command("there", "a b")
    assert of_command("--text=-3", "--top=2", "--from=") == Command("", "-3", 2)
    assert [field.name for field in dataclasses.fields(Command)] == ["run", "text", "top"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "fill needs --from and --text: python run.py fill --from=RUN"),
        (["--from=x"], "fill needs --from and --text"),
        (["--from=x", "--text"], "--text"),
        (["--from=x", "--text=y", "--run=3"], "--run is not an option. Did you mean"),
        (["--from=x", "--text=y", "--topp=3"], "Did you mean --top?"),
        (["--from=x", "--text=y", "--top=many"], "'many'"),
        (["--from=x", "--text=y", "z"], "z"),
    ],
)
def test_mistakes_in_options_of_a_command(arguments, message):
    with pytest.raises(UserError) as refused:
        of_command(*arguments)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "value", "rest"),
    [
        ([], None, []),
        (["--a=1"], None, ["--a=1"]),
        (["--exp=x", "--a=1"], "x", ["--a=1"]),
        (["--a=1", "--exp", "x"], "x", ["--a=1"]),
        (["--exp=x=y"], "x=y", []),
        (["--exp="], "", []),
        (["--exp=x", "--exp=y"], "x", ["--exp=y"]),
    ],
)
def test_take(arguments, value, rest):
    assert command_line.take(arguments, "--exp") == (value, rest)


@pytest.mark.parametrize("arguments", [["--exp"], ["--exp", "--a"]])
def test_take_wants_a_value(arguments):
    with pytest.raises(UserError, match="--exp needs a value"):
        command_line.take(arguments, "--exp")
