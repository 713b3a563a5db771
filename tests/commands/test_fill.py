"""Filling masks in: what was learned stands first, with training's probabilities; mistakes."""

import functools
import re

import jax
import numpy as np
import pytest

from missing_bits import options, run
from missing_bits.augment.tokens import Masked
from missing_bits.commands import fill
from missing_bits.data import tokenizer
from missing_bits.data.tokenizer import Tokenizer
from missing_bits.encoders import files
from missing_bits.encoders.images import ImageEncoder
from missing_bits.loop.config import RunConfig
from missing_bits.loop.train import train
from missing_bits.ssl.bert import BERT, Config, Params

LENGTH = 16
WEEK = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The configuration of a run on seven words in turn."""
    file = tmp_path_factory.mktemp("days") / "days.txt"
    file.write_text(f"{WEEK}\n" * 400)
    return options.make(
        Config,
        data=f"txt:{file}",
        length=LENGTH,
        vocabulary=100,
        network="bert_nano",
        batch_size=16,
        updates=250,
    )


@pytest.fixture(scope="module")
def learned(config, tmp_path_factory):
    """The folder of the run."""
    folder = tmp_path_factory.mktemp("fill") / "run"
    train(BERT, config, RunConfig(dir=str(folder), eval_period=250), name="bert")
    return folder


@pytest.fixture
def ask(learned, capsys):
    """The function that gives what `run.py fill` prints for a text, line by line.

    Candidates are pairs of a percentage and a token, other lines the numbers of masks.
    """

    def ask(text, *options):
        assert run.main(["fill", f"--from={learned}", f"--text={text}", *options]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        lines = said.out.splitlines()
        assert lines[0] == text
        found = [re.fullmatch(r" +([0-9.]+) %  (\S+)|\[MASK\] (\d+):", line) for line in lines[1:]]
        return [
            int(match[3]) if match[3] else (float(match[1]), match[2])  # a mask, or a candidate
            for match in found
        ]

    return ask


def test_what_was_learned_stands_first(ask):
    percent, token = ask(f"Monday Tuesday [MASK] Thursday Friday Saturday Sunday {WEEK}")[0]
    assert token == "Wednesday"
    assert percent > 50


def test_candidates_are_sorted_and_their_probabilities_no_more_than_one(ask):
    found = ask("Monday [MASK] Wednesday")
    assert len(found) == 5
    percents = [percent for percent, _ in found]
    assert percents == sorted(percents, reverse=True)
    assert 0 < sum(percents) <= 100.5  # each is rounded to a tenth
    assert len({token for _, token in found}) == 5
    assert ask("Monday [MASK] Wednesday", "--top=2") == found[:2]


def test_each_mask_is_filled_in_turn(ask):
    found = ask(f"Monday [MASK] Wednesday Thursday [MASK] Saturday Sunday {WEEK}", "--top=1")
    assert [one if isinstance(one, int) else one[1] for one in found] == [1, "Tuesday", 2, "Friday"]


def test_all_candidates_together_are_certain(learned):
    loaded = files.load(learned)
    words = Tokenizer.from_json(loaded.encoder.tokenizer)
    ids = words.encode("Monday [MASK] Sunday [MASK]", specials=True).ids
    chances = fill.guesses(loaded.encoder, loaded.variables, loaded.head, ids, np.array([1, 3]))
    assert chances.shape == (2, loaded.encoder.vocabulary)
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)


def test_probabilities_are_those_of_training(learned, config):
    """The softmax of the logits from which the loss is made, for a row with the same tokens."""
    loaded = files.load(learned)
    resources = BERT.resources(config)
    words = resources.texts.words
    assert loaded.encoder.tokenizer == words.to_json()
    ids = words.encode("Friday [MASK] Sunday", specials=True).ids
    assert ids[1] == tokenizer.MASK
    masked = Masked(ids[None], np.array([[1]]), np.array([[4]]), np.array([[True]]))
    params = Params(loaded.variables.params, loaded.head)
    guesses = resources.model.guess(params, masked, np.ones_like(ids)[None])
    chances = fill.guesses(loaded.encoder, loaded.variables, loaded.head, ids, np.array([1]))
    np.testing.assert_allclose(chances, jax.nn.softmax(guesses.logits[0]), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("exp", ["missing_bits.ssl.bert:BERT", "masked_language"])
def test_a_run_may_have_been_called_otherwise(exp, learned, tmp_path, capsys):
    """By the library, or by version 0.1."""
    loaded = files.load(learned)
    file = tmp_path / "seed0.safetensors"
    files.save(file, loaded.encoder, loaded.variables, {"exp": exp}, loaded.head)
    text = "--text=Monday [MASK] Wednesday"
    assert run.main(["fill", f"--from={file}", text]) == 0
    assert run.main(["fill", f"--from={learned}", text]) == 0
    said = capsys.readouterr().out
    assert said[: len(said) // 2] == said[len(said) // 2 :]


@functools.cache
def encoder_of_images():
    encoder = ImageEncoder("convnet", (16, 16, 1), (0.5,), (0.5,))
    return encoder, jax.device_get(jax.jit(encoder.init)(jax.random.key(0)))


@pytest.fixture
def others(learned, tmp_path):
    """Folders of runs of other experiments.

    One has an encoder of images, one the encoder of this very run.
    """
    loaded = files.load(learned)
    of_text = loaded.encoder, loaded.variables
    for name, exp, encoder in (
        ("mae", "mae", encoder_of_images()),
        ("finetune", "finetune", of_text),
        ("lying", "bert", encoder_of_images()),
        ("headless", "bert", of_text),
    ):
        files.save(tmp_path / name / "encoder" / "seed0.safetensors", *encoder, {"exp": exp})
    (tmp_path / "unfinished").mkdir()
    return tmp_path


WRONG = {
    "no mask": ({"text": "Monday Tuesday"}, ["Monday Tuesday", "has no [MASK]"]),
    "a mask in small letters": ({"text": "Monday [mask]"}, ["has no [MASK]"]),
    "empty text": ({"text": ""}, ["has no [MASK]"]),
    "too long": (
        {"text": "[MASK]" + " Monday" * LENGTH},
        [f"--text has {LENGTH + 1} tokens", f"at most {LENGTH}"],
    ),
    "no candidates": ({"top": "0"}, ["--top is 0", "between 1 and"]),
    "more candidates than tokens": ({"top": "101"}, ["--top is 101", "vocabulary"]),
    "negative candidates": ({"top": "-1"}, ["--top is -1", "between 1 and"]),
    "candidates in words": ({"top": "five"}, ["--top", "'five'"]),
    "undecodable bytes": ({"text": "[MASK] \udcff"}, ["--text holds bytes that are not UTF-8"]),
    "a run of images": ({"from": "mae"}, ["mae holds no language model", "--exp=bert"]),
    "a fine-tuned run": ({"from": "finetune"}, ["finetune holds no language model", "--exp=bert"]),
    "an encoder of images that passes for text": ({"from": "lying"}, ["lying holds no language"]),
    "a run without its head": ({"from": "headless"}, ["headless holds another head than this"]),
    "an unfinished run": ({"from": "unfinished"}, ["unfinished holds no encoder"]),
    "no run": ({"from": "nowhere"}, ["nowhere is no folder of a run"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_gets_one_line(case, learned, others, capsys):
    changed, words = WRONG[case]
    if "from" in changed:
        changed = changed | {"from": others / changed["from"]}
    options = {"from": learned, "text": "Monday [MASK] Wednesday", "top": "5"} | changed
    assert run.main(["fill", *(f"--{name}={value}" for name, value in options.items())]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("given", "named"), [(["--text=[MASK]"], "--from"), (["--from=x"], "--text")]
)
def test_what_is_missing_is_named_with_the_usage(given, named, capsys):
    assert run.main(["fill", *given]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: fill needs --from and --text: python run.py fill")
    assert named in said
    assert run.main(["fill", "--from=x", "--text=[MASK]", "--depth=3"]) == 2
    assert "--depth is not an option" in capsys.readouterr().err
