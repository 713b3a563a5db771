"""An encoder that is written and read again is the same; other files are refused in a line."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from missing_bits.encoders import files
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.text import TextEncoder
from missing_bits.encoders.variables import Variables
from missing_bits.errors import UserError

ENCODER = ImageEncoder("convnet", (28, 28, 1), (0.3,), (0.2,))
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), np.uint8)
VOCABULARY = ["[PAD]", "[UNK]", "[SEP]", "[MASK]", "naïve", '"', "\\"]  # what JSON has to escape
TOKENIZER = json.dumps({"kind": "wordpiece", "vocabulary": VOCABULARY}, ensure_ascii=False)
TEXT = TextEncoder("bert_nano", 7, 5, TOKENIZER, dropout=0.1)
TOKENS = np.array([[3, 1, 4, 1, 5], [2, 6, 0, 0, 0]], np.int32)
HEAD = {
    "head/linear": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float32)}
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    for seed in (3, 10):
        variables = jax.tree.map(np.asarray, ENCODER.init(jax.random.key(seed)))
        files.save(
            folder / "encoder" / f"seed{seed}.safetensors", ENCODER, variables, {"step": seed}
        )
    return folder


@pytest.fixture(scope="module")
def text_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    variables = jax.device_get(jax.jit(TEXT.init)(jax.random.key(0)))
    files.save(folder / "encoder" / "seed0.safetensors", TEXT, variables, {"step": 9}, HEAD)
    return folder


@pytest.mark.parametrize(("seed", "loaded_seed"), [(None, 3), (3, 3), (10, 10)])
def test_round_trip(run, seed, loaded_seed):
    """Parameters, statistics and features, bit for bit.

    The first seed is the least number, not the least name.
    """
    loaded = files.load(run, seed)
    variables = ENCODER.init(jax.random.key(loaded_seed))
    assert loaded.encoder == ENCODER
    assert loaded.card["step"] == loaded_seed
    assert loaded.card["kind"] == files.kind_of(loaded.encoder) == "images"
    assert loaded.head == {}
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    np.testing.assert_array_equal(loaded(IMAGES), ENCODER.apply(variables, jnp.asarray(IMAGES))[0])


def test_round_trip_of_an_encoder_of_text_and_its_head(text_run):
    """The tokenizer too, to the letter.

    What lies beside the encoder is not taken for a part of it.
    """
    loaded = files.load(text_run)
    variables = jax.jit(TEXT.init)(jax.random.key(0))
    assert loaded.encoder == TEXT
    assert loaded.card["kind"] == files.kind_of(loaded.encoder) == "text"
    assert loaded.card["step"] == 9
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    jax.tree.map(np.testing.assert_array_equal, loaded.head, HEAD)
    np.testing.assert_array_equal(loaded(TOKENS), TEXT.apply(variables, jnp.asarray(TOKENS))[0])


def test_a_head_lies_beside_an_encoder_of_images(tmp_path):
    variables = jax.device_get(ENCODER.init(jax.random.key(0)))
    files.save(tmp_path / "one.safetensors", ENCODER, variables, {}, HEAD)
    loaded = files.load(tmp_path / "one.safetensors")
    jax.tree.map(np.testing.assert_array_equal, loaded.head, HEAD)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)


def test_the_card_lies_beside_the_file_and_within_it(run):
    card = json.loads((run / "encoder" / "seed3.json").read_text())
    assert card == files.load(run).card
    assert card["encoder"]["network"] == "convnet"


def test_bytes_and_fractions_of_an_image_give_the_same_features(run):
    loaded = files.load(run)
    np.testing.assert_allclose(
        loaded(IMAGES), loaded(IMAGES.astype(np.float32) / 255), rtol=1e-5, atol=1e-6
    )


def test_images_are_normalized_by_the_encoders_own_figures():
    """With mean m and deviation s the features of x are those of (x - m) / s with 0 and 1."""
    plain = ImageEncoder("convnet", (28, 28, 1), (0.0,), (1.0,))
    variables = plain.init(jax.random.key(0))
    x = jnp.asarray(IMAGES / 255, jnp.float32)
    expected = plain.apply(variables, (x - 0.3) / 0.2)[0]
    np.testing.assert_allclose(ENCODER.apply(variables, x)[0], expected, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_refused_by_name(run, text_run):
    assert files.load_for(ENCODER, str(run)).params
    other = ImageEncoder("convnet", (32, 32, 3), (0.3,) * 3, (0.2,) * 3)
    with pytest.raises(
        UserError, match=r"image_shape is \(28, 28, 1\); this run needs \(32, 32, 3\)"
    ):
        files.load_for(other, str(run))
    with pytest.raises(UserError, match="network is convnet; this run needs resnet18"):
        files.load_for(ImageEncoder("resnet18", (28, 28, 1), (0.3,), (0.2,)), str(run))
    with pytest.raises(UserError, match="patch is 0; this run needs 7"):
        files.load_for(dataclasses.replace(ENCODER, patch=7), str(run))
    with pytest.raises(UserError, match="holds an encoder of text; this run needs one of images"):
        files.load_for(ENCODER, str(text_run))


def test_missing_and_damaged_files_are_told_in_a_line(run, tmp_path):
    with pytest.raises(UserError, match="is no folder of a run"):
        files.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no encoder"):
        files.load(tmp_path)
    with pytest.raises(UserError, match="no encoder of seed 4; it has seed3, seed10"):
        files.load(run, 4)
    with pytest.raises(UserError, match="There is no file"):
        files.load(tmp_path / "none.safetensors")
    whole = (run / "encoder" / "seed3.safetensors").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a safetensors file at all"):
        (tmp_path / "torn.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="is damaged or was not written by this suite"):
            files.load(tmp_path / "torn.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "sounds"},
        {"kind": None},
        {"kind": ["text"]},
        {"kind": "images"},  # with the fields of an encoder of text
        {"encoder": None},
        {"encoder": [1]},
        {"encoder": {"network": "bert_nano"}},
    ],
)
def test_a_card_that_names_no_known_kind_is_told_in_a_line(text_run, tmp_path, change):
    """None stands for an entry that is missing."""
    card = {
        name: value
        for name, value in (files.load(text_run).card | change).items()
        if value is not None
    }
    path = tmp_path / "other.safetensors"
    path.write_bytes(
        safetensors.numpy.save({"params:a:w": np.ones(2)}, metadata={"card": json.dumps(card)})
    )
    with pytest.raises(UserError, match="is damaged or was not written by this suite"):
        files.load(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokenizer": "{}"}, "The tokenizer is damaged"),
        (
            {"tokenizer": TOKENIZER.replace('"naïve", ', "")},
            "seed0.safetensors is damaged: its tokenizer has 6 tokens, its encoder 7",
        ),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_told(tmp_path, changed, message):
    path = tmp_path / "seed0.safetensors"
    files.save(path, dataclasses.replace(TEXT, **changed), Variables({}, {}), {})
    with pytest.raises(UserError, match=message) as caught:
        files.load(path)
    assert "\n" not in str(caught.value)
