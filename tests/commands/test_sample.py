"""What is written after a prompt: as it comes, the same for a seed, to the end; and mistakes."""

import re

import jax
import numpy as np
import pytest

from missing_bits import run
from missing_bits.commands import sample
from missing_bits.data import tokenizer
from missing_bits.data.tokenizer import SEP
from missing_bits.encoders import files
from missing_bits.encoders.causal import CausalEncoder
from missing_bits.encoders.images import ImageEncoder
from missing_bits.nets.sequences.stack import Settings

TEXTS = {"characters": "abcd é\n", "wordpiece": "cat dog " * 9, "bytes": "", "bpe": "the cat " * 9}


def save(folder, kind, network="gru", ends=False):
    """Write an encoder that has learned nothing but that texts end always, or never."""
    words = tokenizer.train([TEXTS[kind]], kind, 270)
    encoder = CausalEncoder(Settings(network, 1, 16, 2), words.size, 8, words.to_json())
    variables = jax.device_get(jax.jit(encoder.init)(jax.random.key(0)))
    variables = jax.tree.map(lambda leaf: 3 * np.asarray(leaf), variables)
    # The last feature is always 1, and the embedding of an end alone looks at it.
    norm = variables.params["stack/norm"]
    norm["scale"][-1] = 0
    norm["offset"][-1] = 1
    table = encoder.table(variables.params)
    table[:, -1] = 0
    table[SEP, -1] = 100 if ends else -100
    files.save(folder / "encoder" / "seed0.safetensors", encoder, variables, {"exp": "gpt"})
    return words


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of runs, one for each kind of tokenizer and more."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in TEXTS:
        save(folder / kind, kind)
    save(folder / "transformer", "characters", "transformer")
    save(folder / "ends", "characters", ends=True)
    images = ImageEncoder("convnet", (16, 16, 1), (0.5,), (0.5,))
    files.save(
        folder / "images" / "encoder" / "seed0.safetensors",
        images,
        jax.device_get(jax.jit(images.init)(jax.random.key(0))),
        {"exp": "mae"},
    )
    return folder


@pytest.fixture
def write(runs, capsys):
    """The function that gives what `run.py sample` prints for the text, and the line beside it."""

    def write(name, prompt, *options):
        assert run.main(["sample", f"--from={runs / name}", f"--prompt={prompt}", *options]) == 0
        said = capsys.readouterr()
        return said.out, said.err

    return write


def test_a_continuation_and_its_rate(write):
    out, err = write("characters", "ab", "--length=40", "--temperature=1")
    assert out.startswith("ab")
    assert len(out) == 2 + 40 + 1
    assert set(out[2:-1]) <= set(TEXTS["characters"])
    assert re.fullmatch(
        r"40 tokens in [\d.]+ s: [\d,]+ tokens per second, after [\d.]+ s to get ready.\n", err
    )


def test_a_seed_gives_the_same_text_and_another_one_another(write):
    first, again, other = (
        write("characters", "ab", "--length=30", f"--seed={seed}")[0] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_several_continuations_stand_below_each_other(write):
    out, err = write("characters", "ab", "--length=20", "--num=3")
    parts = re.split(r"--- \d ---\n", out)
    assert len(parts) == 3
    assert all(re.fullmatch(r"ab.{20}\n", part, re.DOTALL) for part in parts)
    assert len(set(parts)) == 3
    assert err.startswith("60 tokens in ")


def test_it_ends_with_the_document(write):
    out, _ = write("ends", "ab", "--length=300", "--temperature=0")
    assert out == "ab\n"


def test_text_comes_as_soon_as_its_characters_are_whole():
    words = tokenizer.train([], "bytes", 0)
    shown = sample._Shown(words)
    ids = words.encode("é\x1b[1m!").ids
    assert [shown.more(ids[:1]), shown.more(ids[1:2])] == ["", "é"]
    assert shown.more(ids[2:]) == "\ufffd[1m!"  # no terminal is told anything
    pieces = tokenizer.train([TEXTS["wordpiece"]], "wordpiece", 270)
    shown = sample._Shown(pieces)
    assert (
        "".join(shown.more(ids) for ids in pieces.encode("dogcat cat").ids[:, None])
        == " dogcat cat"
    )
    assert shown.more(np.array([SEP, *pieces.encode("cat").ids])) == ""


@pytest.mark.parametrize("kind", ["bytes", "bpe", "wordpiece"])
def test_all_tokens_write(kind, write):
    prompt = "cat dog" if kind == "wordpiece" else "né 猫"
    out, _ = write(kind, prompt, "--length=12")
    assert out.startswith(prompt)


def test_a_prompt_beyond_the_context_is_cut_aloud(write):
    out, err = write("transformer", "abcd abcd abcd", "--length=20")
    assert out.startswith("abcd abcd abcd")
    assert len(out) == 14 + 20 + 1
    assert "--prompt has 14 tokens, and this model reads 8: only the last 4 of them are" in err
    assert "--prompt has" not in write("characters", "abcd abcd abcd", "--length=20")[1]


WRONG = {
    "an empty prompt": ({"prompt": ""}, ["--prompt is empty"]),
    "characters never seen": (
        {"prompt": "abxy"},
        ["--prompt holds what the model has never seen: 'x' 'y'", "--tokenizer=bpe"],
    ),
    "words never seen": (
        {"from": "wordpiece", "prompt": "cat zebra"},
        ["has never seen: 'zebra'"],
    ),
    "white space alone": (
        {"from": "wordpiece", "prompt": "  "},
        ["--prompt holds nothing but white space"],
    ),
    "undecodable bytes": ({"prompt": "a\udcff"}, ["--prompt holds bytes that are not UTF-8"]),
    "no tokens": ({"length": "0"}, ["--length is 0; it must be at least 1"]),
    "no continuations": ({"num": "0"}, ["--num is 0; it must be at least 1"]),
    "a negative temperature": ({"temperature": "-1"}, ["--temperature is -1"]),
    "a temperature that is none": ({"temperature": "nan"}, ["--temperature is nan"]),
    "more than there are": ({"top-k": "99"}, ["--top-k is 99; it must be at most 11"]),
    "negative k": ({"top-k": "-1"}, ["--top-k is -1"]),
    "no probability": ({"top-p": "0"}, ["--top-p is 0.0; it must lie above 0 and be at most 1"]),
    "too much probability": ({"top-p": "1.5"}, ["--top-p is 1.5"]),
    "a negative seed": ({"seed": "-1"}, ["--seed is -1"]),
    "a run of images": ({"from": "images"}, ["holds no model that predicts", "--exp=gpt"]),
    "no run": ({"from": "nowhere"}, ["nowhere is no folder of a run"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_gets_one_line(case, runs, capsys):
    changed, words = WRONG[case]
    options = {"from": "characters", "prompt": "ab", **changed}
    options["from"] = runs / options["from"]
    assert run.main(["sample", *(f"--{name}={value}" for name, value in options.items())]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_what_is_missing_is_named_with_the_usage(runs, capsys):
    for option in (f"--from={runs / 'characters'}", "--prompt=ab"):
        assert run.main(["sample", option]) == 2
        assert capsys.readouterr().err.startswith(
            "error: sample needs --from and --prompt: "
            'python run.py sample --from=RUN --prompt="The "'
        )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere", "nowhere is no folder of a run"),
        ("unfinished", "unfinished holds no encoder: it is of another kind, or its run has not"),
        ("images", "images holds an encoder of images, which neither writes nor draws"),
        (
            "junk.safetensors",
            "junk.safetensors is damaged or was not written by this version of the suite",
        ),
        ("nowhere.safetensors", "There is no file"),
    ],
)
def test_who_names_a_run_that_writes_nothing_is_not_asked_for_a_prompt(name, told, runs, capsys):
    """Such as an autoencoder's, or one of a VAE that was stopped."""
    (runs / "unfinished").mkdir(exist_ok=True)
    (runs / "junk.safetensors").write_bytes(b"junk of more than eight bytes")
    assert run.main(["sample", f"--from={runs / name}", "--out=samples.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
