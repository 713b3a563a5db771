"""Filling masks in: what a run has learned stands first, probabilities are those of training, mistakes get one line."""

import functools
import re

import jax
import numpy as np
import pytest

from missing_bits import run
from missing_bits.augment.tokens import Masked
from missing_bits.commands import fill
from missing_bits.data import tokenizer
from missing_bits.data.tokenizer import Tokenizer
from missing_bits.encoders import files
from missing_bits.encoders.images import ImageEncoder
from missing_bits.ssl.bert import Config, MaskedLanguage

LENGTH = 16
WEEK = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"


@pytest.fixture(scope="module")
def learned(runs, tmp_path_factory):
    """The folder of a run on seven words in turn, with the command line."""
    folder = tmp_path_factory.mktemp("fill")
    (folder / "days.txt").write_text(f"{WEEK}\n" * 400)
    sizes = [
        f"--length={LENGTH}",
        "--batch-size=16",
        "--updates=250",
        "--network=bert_tiny",
        "--vocabulary=100",
    ]
    data = f"--data=txt:{folder / 'days.txt'}"
    runs.finish("--exp=masked_language", data, *sizes, "--dropout=0", f"--run.dir={folder / 'run'}")
    return folder / "run"


@pytest.fixture
def ask(learned, capsys):
    """The function that gives what `run.py fill` prints for a text, as lines of candidates (percent, token)."""

    def ask(text, *options):
        assert run.main(["fill", f"--from={learned}", f"--text={text}", *options]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        first, *lines = said.out.splitlines()
        assert first == text
        found = [
            re.fullmatch(r" +([0-9.]+) %  (\S+)|\[MASK\] (\d+):", line).groups() for line in lines
        ]
        return [
            int(number) if number else (float(percent), token) for percent, token, number in found
        ]

    return ask


def test_what_was_learned_stands_first(ask):
    (percent, token), *_ = ask(f"Monday Tuesday [MASK] Thursday Friday Saturday Sunday {WEEK}")
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
    ids = (
        Tokenizer.from_json(loaded.encoder.tokenizer)
        .encode("Monday [MASK] Sunday [MASK]", specials=True)
        .ids
    )
    chances = fill.guesses(loaded.encoder, loaded.variables, loaded.head, ids, np.array([1, 3]))
    assert chances.shape == (2, loaded.encoder.vocabulary)
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)


def test_probabilities_are_those_of_training(learned):
    """The softmax of the logits from which the loss is made, for a row with the same tokens."""
    loaded = files.load(learned)
    sizes = {"length": LENGTH, "batch_size": 8, "network": "bert_tiny", "vocabulary": 100}
    experiment = MaskedLanguage(Config(data=f"txt:{learned.parent / 'days.txt'}", **sizes))
    assert loaded.encoder.tokenizer == experiment.words.to_json()
    ids = experiment.words.encode("Friday [MASK] Sunday", specials=True).ids
    assert ids[1] == tokenizer.MASK
    masked = Masked(ids[None], np.array([[1]]), np.array([[4]]), np.array([[True]]))
    params = {"encoder": loaded.variables.params, "head": loaded.head}
    logits, _ = experiment.logits(params, masked, np.ones_like(ids)[None])
    chances = fill.guesses(loaded.encoder, loaded.variables, loaded.head, ids, np.array([1]))
    np.testing.assert_allclose(chances, jax.nn.softmax(logits[0]), rtol=1e-4, atol=1e-7)


@functools.cache
def encoder_of_images():
    encoder = ImageEncoder("convnet", (16, 16, 1), (0.5,), (0.5,))
    return encoder, jax.device_get(jax.jit(encoder.init)(jax.random.key(0)))


@pytest.fixture
def others(learned, tmp_path):
    """Folders of runs of other experiments: with an encoder of images, and with the encoder of this very run."""
    loaded = files.load(learned)
    of_text = loaded.encoder, loaded.variables
    for name, encoder in (("masked_image", encoder_of_images()), ("finetune", of_text)):
        files.save(tmp_path / name / "encoder" / "seed0.safetensors", *encoder, {"exp": name})
    (tmp_path / "unfinished").mkdir()
    return tmp_path


WRONG = {
    "no mask": ({"text": "Monday Tuesday"}, ["Monday Tuesday", "has no [MASK]"]),
    "a mask in small letters": ({"text": "Monday [mask]"}, ["has no [MASK]"]),
    "empty text": ({"text": ""}, ["has no [MASK]"]),
    "too long": ({"text": "[MASK]" + " Monday" * LENGTH}, [f"--text has {LENGTH + 1} tokens", f"at most {LENGTH}"]),
    "no candidates": ({"top": "0"}, ["--top is 0", "between 1 and"]),
    "more candidates than tokens": ({"top": "101"}, ["--top is 101", "vocabulary"]),
    "negative candidates": ({"top": "-1"}, ["--top=-1 is not a number"]),
    "candidates in words": ({"top": "five"}, ["--top=five is not a number"]),
    "undecodable bytes": ({"text": "[MASK] \udcff"}, ["--text holds bytes that are not UTF-8"]),
    "a run of images": ({"from": "masked_image"}, ["masked_image holds no language model", "--exp=masked_language"]),
    "a fine-tuned run": ({"from": "finetune"}, ["finetune holds no language model", "--exp=masked_language"]),
    "an unfinished run": ({"from": "unfinished"}, ["unfinished holds no encoder"]),
    "no run": ({"from": "nowhere"}, ["nowhere is no folder of a run"]),
}  # fmt: skip


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
    assert "--depth=3 is not an option of fill" in capsys.readouterr().err
