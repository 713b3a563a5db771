"""An encoder that is written and read again is the same; other files are refused in a line."""

import contextlib
import dataclasses
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from missing_bits import handover
from missing_bits.data import tokenizer
from missing_bits.encoders import files
from missing_bits.encoders.causal import CausalEncoder
from missing_bits.encoders.images import ImageEncoder
from missing_bits.encoders.text import TextEncoder
from missing_bits.errors import UserError
from missing_bits.nets.sequences.stack import Settings

ENCODER = ImageEncoder("convnet", (28, 28, 1), (0.3,), (0.2,))
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), np.uint8)
VOCABULARY = ["[PAD]", "[UNK]", "[SEP]", "[MASK]", "naïve", '"', "\\"]  # what JSON has to escape
TOKENIZER = json.dumps({"kind": "wordpiece", "vocabulary": VOCABULARY}, ensure_ascii=False)
TEXT = TextEncoder("bert_nano", 7, 5, TOKENIZER, dropout=0.1)
CAUSAL = CausalEncoder(Settings("transformer", 1, 8, 2), 7, 5, TOKENIZER)
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


@pytest.fixture(scope="module")
def causal_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("causal")
    variables = jax.device_get(jax.jit(CAUSAL.init)(jax.random.key(0)))
    files.save(folder / "encoder" / "seed0.safetensors", CAUSAL, variables, {"step": 4})
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


def test_round_trip_of_an_encoder_that_reads_from_left_to_right(causal_run):
    """Its network's settings too. Features are means over the tokens, without padding."""
    loaded = files.load(causal_run)
    variables = jax.jit(CAUSAL.init)(jax.random.key(0))
    assert loaded.encoder == CAUSAL
    assert loaded.card["kind"] == files.kind_of(loaded.encoder) == "causal text"
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    features = np.asarray(loaded(TOKENS))
    assert features.shape == (2, CAUSAL.num_features)
    tokens = np.asarray(CAUSAL.tokens(variables, jnp.asarray(TOKENS)))
    np.testing.assert_allclose(features[0], tokens[0].mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(features[1], tokens[1, :2].mean(axis=0), rtol=1e-4, atol=1e-6)
    short = np.asarray(loaded(TOKENS[1:, :2]))
    np.testing.assert_allclose(features[1:], short, rtol=1e-4, atol=1e-6)
    with pytest.warns(UserWarning, match="1 of 1 texts have more than 5 tokens"):
        assert loaded(" ".join(["naïve"] * 9)).shape == (1, 8)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("network", "bert", "its settings's network has a wrong type or size"),
        ("network", ["gru"], "its settings's network has a wrong type or size"),
        ("layers", 10**6, "layers of a network on sequences is 1000000; it must be at most 512"),
        ("layers", 1.0, "its settings's layers has a wrong type or size"),
        ("width", 0, "--width is 0"),
        ("width", 7, "--width is 7; it must be a multiple"),
        ("heads", 4_000_000_000, "its settings's heads has a wrong type or size"),
        ("dropout", -1, "--dropout is -1"),
        ("run", "rm", "its settings has an unknown 'run'"),
    ],
)
def test_settings_of_a_network_are_held_against_what_they_may_be(
    causal_run, tmp_path, field, value, expected
):
    path = causal_run / "encoder" / "seed0.safetensors"
    card = files.load(path).card
    card["encoder"]["settings"][field] = value
    write(tmp_path / "other.safetensors", tensors_of(path), card)
    assert expected in told(tmp_path / "other.safetensors")


def test_a_network_without_settings_is_told(causal_run, tmp_path):
    path = causal_run / "encoder" / "seed0.safetensors"
    for settings in (None, [], "gru"):
        card = files.load(path).card
        card["encoder"]["settings"] = settings
        write(tmp_path / "other.safetensors", tensors_of(path), card)
        assert "its encoder's settings has a wrong type" in told(tmp_path / "other.safetensors")


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
        with pytest.raises(
            UserError, match="is damaged or was not written by this version of the suite"
        ):
            files.load(tmp_path / "torn.safetensors")


def tensors_of(path):
    """Return the tensors of an encoder's file by name."""
    return safetensors.numpy.load_file(path)


def write(path, tensors, card):
    """Write a file of tensors under a card, which may be any text."""
    said = card if isinstance(card, str) else json.dumps(card)
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"card": said}))


def told(path):
    """Return the one line with which a file is refused."""
    with pytest.raises(UserError) as error:
        files.load(path)
    line = str(error.value)
    assert line.startswith(f"{path} is damaged or was not written by this version of the suite: ")
    assert "\n" not in line
    assert len(line) < len(str(path)) + 400
    return line


NAME = "params:text_transformer/embed:embeddings"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kind": "sounds"}, "its card tells of 'sounds', not of images or text"),
        ({"kind": None}, "its card does not tell kind"),
        ({"kind": ["text"]}, "its card has a wrong type for kind"),
        ({"kind": "images"}, "its encoder has an unknown 'dropout'"),
        ({"exp": ["bert"]}, "its card has a wrong type for exp"),
        ({"config": 3}, "its card has a wrong type for config"),
        ({"encoder": None}, "its card does not tell encoder"),
        ({"encoder": [1]}, "its card has a wrong type for encoder"),
        ({"encoder": {"network": "bert_nano"}}, "its encoder lacks vocabulary, length, tokenizer"),
    ],
)
def test_a_card_that_names_no_known_kind_is_told_in_a_line(text_run, tmp_path, change, expected):
    """None stands for an entry that is missing."""
    card = {
        name: value
        for name, value in (files.load(text_run).card | change).items()
        if value is not None
    }
    write(tmp_path / "other.safetensors", {"params:a:w": np.ones(2)}, card)
    assert expected in told(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("network", "bert_huge"),
        ("network", ["bert_nano"]),
        ("network", {}),
        ("vocabulary", 8),  # the table has 7
        ("vocabulary", 10**12),
        ("vocabulary", 10**400),
        ("vocabulary", -7),
        ("vocabulary", 7.0),
        ("vocabulary", True),
        ("length", 0),
        ("length", "5"),
        ("length", 10**9),
        ("tokenizer", None),
        ("dropout", float("nan")),
        ("dropout", -1),
        ("bfloat16", "no"),
        ("bfloat16", 1),
        ("run", "rm"),
    ],
)
def test_fields_of_an_encoder_of_text_are_held_against_what_they_may_be(
    text_run, tmp_path, field, value
):
    path = text_run / "encoder" / "seed0.safetensors"
    card = files.load(path).card
    card["encoder"][field] = value
    write(tmp_path / "other.safetensors", tensors_of(path), card)
    told(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("network", "vit_huge"),
        ("network", "resnet50"),  # with other tensors
        ("image_shape", [28, 28]),
        ("image_shape", [28, 28, 3]),
        ("image_shape", [28, 28, 10**9]),
        ("image_shape", [0, 28, 1]),
        ("image_shape", [28.0, 28, 1]),
        ("mean", []),
        ("mean", [0.3, 0.3]),
        ("mean", "0.3"),
        ("mean", [float("inf")]),
        ("std", [0.0]),
        ("patch", -4),
        ("patch", None),
    ],
)
def test_fields_of_an_encoder_of_images_likewise(run, tmp_path, field, value):
    path = run / "encoder" / "seed3.safetensors"
    card = files.load(path).card
    card["encoder"][field] = value
    write(tmp_path / "other.safetensors", tensors_of(path), card)
    told(tmp_path / "other.safetensors")


def test_positions_of_a_claimed_image_are_not_made_before_it_is_known_to_be_sane(run, tmp_path):
    """A billion patches: their positions alone would take a terabyte."""
    card = files.load(run).card
    card["encoder"] |= {"network": "vit_small", "image_shape": [32_768, 32_768, 1], "patch": 1}
    write(tmp_path / "other.safetensors", {"params:a:w": np.ones(2)}, card)
    assert "1,073,741,824 patches; attention takes at most" in told(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("[" * 100_000, "its card is no JSON (RecursionError)"),
        ('{"kind": "text"', "its card is no JSON (JSONDecodeError)"),
        ('{"kind": ' + "9" * 5_000 + "}", "its card is no JSON (ValueError)"),
        ("[]", "its card is no JSON object"),
        ("null", "its card is no JSON object"),
    ],
    ids=["nested", "torn", "long", "list", "null"],
)
def test_a_card_that_is_none_is_told_in_a_line(tmp_path, card, expected):
    write(tmp_path / "other.safetensors", {"params:a:w": np.ones(2)}, card)
    assert expected in told(tmp_path / "other.safetensors")


def test_a_file_without_a_card_is_told_in_a_line(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.ones(2)}))
    assert told(path).endswith("it has no card.")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({NAME: None}, f"it lacks the tensor {NAME}"),
        ({"params:x:w": np.ones(2, "f")}, "it holds the unknown tensor params:x:w"),
        ({"w": np.ones(2, "f")}, "it holds the unknown tensor w"),
        ({"head:a:b:c": np.ones(2, "f")}, "it holds the unknown tensor head:a:b:c"),
        ({NAME: np.ones((7, 65), "f")}, f"{NAME} has the shape (7, 65), not (7, 64)"),
        ({NAME: np.ones(7 * 64, "f")}, f"{NAME} has the shape (448,), not (7, 64)"),
        ({NAME: np.ones((7, 64), "d")}, f"{NAME} is of type F64, not of float32"),
        ({NAME: np.ones((7, 64), "i")}, f"{NAME} is of type I32, not of float32"),
        ({"head:x:w": np.ones(2, "i")}, "head:x:w is of type I32, not of float32"),
        ({NAME: np.full((7, 64), np.nan, "f")}, f"{NAME} holds NaN or infinite numbers"),
        ({"head:x:w": np.full(2, np.inf, "f")}, "head:x:w holds NaN or infinite numbers"),
    ],
)
def test_tensors_are_held_against_the_encoder(text_run, tmp_path, change, expected):
    """None stands for a tensor that is missing."""
    path = text_run / "encoder" / "seed0.safetensors"
    changed = {k: v for k, v in (tensors_of(path) | change).items() if v is not None}
    write(tmp_path / "other.safetensors", changed, files.load(path).card)
    assert expected in told(tmp_path / "other.safetensors")


def test_an_encoder_of_other_tensors_is_told_by_the_first(run, text_run, tmp_path):
    path = run / "encoder" / "seed3.safetensors"
    write(tmp_path / "other.safetensors", tensors_of(path), files.load(text_run).card)
    assert "it lacks the tensor params:text_transformer/" in told(tmp_path / "other.safetensors")
    assert " more." in told(tmp_path / "other.safetensors")


def test_nothing_is_read_from_a_file_that_claims_too_much(text_run, tmp_path, monkeypatch):
    """What the header says is refused before a tensor is read."""
    path = text_run / "encoder" / "seed0.safetensors"
    tensors = tensors_of(path)
    tensors[NAME] = np.ones((7, 65), np.float32)
    write(tmp_path / "other.safetensors", tensors, files.load(path).card)

    @contextlib.contextmanager
    def opened(path, framework):
        with safetensors.safe_open(path, framework) as file:
            parts = {name: getattr(file, name) for name in ("metadata", "keys", "get_slice")}
            yield types.SimpleNamespace(**parts)  # without `get_tensor`

    monkeypatch.setattr(handover, "safe_open", opened)
    assert "has the shape (7, 65)" in told(tmp_path / "other.safetensors")


def test_files_that_cannot_be_read_are_told_in_a_line(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UserError, match=r"folder\.safetensors cannot be read: "):
        files.load(tmp_path / "folder.safetensors")


def test_files_under_names_of_a_users_own_are_left_alone(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    folder = tmp_path / "run" / "encoder"
    shutil.copy(folder / "seed3.safetensors", folder / "seed3 (copy).safetensors")
    shutil.copy(folder / "seed3.safetensors", folder / "seed-best.safetensors")
    assert files.load(tmp_path / "run").card["step"] == 3


def test_heads_are_held_against_what_is_wanted(text_run):
    loaded = files.load(text_run)
    files.check_head(loaded, HEAD, "a")
    for like in (
        {},
        {"head/linear": {"w": np.ones((2, 4)), "b": np.ones(3)}},
        {"head/linear": {"w": np.ones((2, 3))}},
        HEAD | {"other": {"w": np.ones(1)}},
    ):
        with pytest.raises(UserError, match=r"^a holds another head than this suite writes: head:"):
            files.check_head(loaded, like, "a")


def refused(loaded, inputs):
    """Return the line with which an encoder refuses inputs."""
    with pytest.raises(UserError) as error:
        loaded(inputs)
    return str(error.value)


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32, np.int64, np.uint16, np.uint64])
def test_integers_of_every_type_are_bytes(run, kind):
    loaded = files.load(run)
    images = IMAGES // 2  # which int8 holds
    np.testing.assert_array_equal(loaded(images.astype(kind)), loaded(images))
    traced = jax.jit(lambda x: loaded(x))(images.astype(kind))
    np.testing.assert_allclose(traced, loaded(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_of_every_type_are_fractions(run, kind):
    loaded = files.load(run)
    fractions = (IMAGES // 128).astype(kind)  # 0 and 1
    np.testing.assert_allclose(
        loaded(fractions), loaded(255 * (IMAGES // 128)), rtol=1e-4, atol=1e-5
    )
    assert loaded(fractions).dtype == jnp.float32


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (IMAGES.astype(int) + 1, "integers from 1 to 256; they must lie between 0 and 255"),
        (IMAGES.astype(int) - 1, "integers from -1 to 254"),
        (IMAGES.astype(np.float32), "floats from 0 to 255; floats must lie in [0, 1]. Divide"),
        (IMAGES / 127.5 - 1, "floats from -1 to 1; floats must lie in [0, 1]"),
        (np.where(IMAGES == 3, np.nan, 0.5), "hold NaN or infinite numbers"),
        (np.where(IMAGES == 3, np.inf, 0.5), "hold NaN or infinite numbers"),
        (IMAGES[0], "a single one as images[None]"),
        (IMAGES[..., 0], "Add the channel: images[..., None]"),
        (IMAGES.transpose(0, 3, 1, 2), "to the end: images.transpose(0, 2, 3, 1)"),
        (IMAGES[:, :14], "shape (4, 14, 28, 1); this encoder takes (images, 28, 28, 1)"),
        (IMAGES[0, 0, 0, 0], "shape ()"),
        (IMAGES > 3, "of type bool; give uint8, or floats in [0, 1]"),
        (IMAGES.astype(complex), "of type complex128"),
        (IMAGES.astype(str), "of type <U3"),
        ([IMAGES[0], IMAGES[1, :14]], "are of different shapes"),
        ("an image", "shape ()"),
    ],
)
def test_images_that_would_give_nonsense_are_refused_in_a_line(run, inputs, expected):
    line = refused(files.load(run), inputs)
    assert expected in line
    assert "\n" not in line


def test_what_is_known_of_traced_images_is_checked(run):
    loaded = files.load(run)
    with pytest.raises(UserError, match=r"to the end: images.transpose\(0, 2, 3, 1\)"):
        jax.eval_shape(loaded, jax.ShapeDtypeStruct((4, 1, 28, 28), jnp.uint8))
    assert jax.eval_shape(loaded, jax.ShapeDtypeStruct((4, 28, 28, 1), jnp.int32)).shape[0] == 4


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (TOKENS + 2, "numbers from 2 to 8; those of this encoder's vocabulary go from 0 to 6"),
        (TOKENS - 1, "numbers from -1 to 5"),
        (TOKENS.astype(float), "of type float64; give a list of strings, or tokens as integers"),
        (TOKENS[0], "shape (5,); this encoder takes (texts, tokens of a text). Give a single"),
        (TOKENS[:, :0], "shape (2, 0)"),
        (TOKENS[None], "shape (1, 2, 5)"),
        ([[1, 2], [3]], "differ in length; pad them at the end with 0"),
        (["a", 3], "of type <U"),
        ([b"bytes"], "of type |S5"),
        ([], "of type float64"),
        ([None], "of type object"),
    ],
)
def test_tokens_that_would_give_nonsense_are_refused_in_a_line(text_run, inputs, expected):
    assert expected in refused(files.load(text_run), inputs)


@pytest.fixture(scope="module")
def of_bytes():
    """Return a loaded encoder of bytes that reads at most 8 of them."""
    encoder = TextEncoder("bert_nano", 260, 8, tokenizer.train([], "bytes", 0).to_json())
    return files.Loaded(encoder, jax.jit(encoder.init)(jax.random.key(0)), {}, {})


def test_text_is_taken_as_it_is(of_bytes):
    """Bytes have the numbers 4 to 259; the shorter text is padded, an empty one has no features."""
    tokens = 4 + np.array([[*b"abc"], [*b"d", -4, -4]], np.int32)
    expected = np.asarray(of_bytes(tokens))
    for texts in (
        ["abc", "d"],
        ("abc", "d"),
        np.array(["abc", "d"]),
        np.array(["abc", "d"], object),
    ):
        np.testing.assert_array_equal(of_bytes(texts), expected)
    np.testing.assert_allclose(of_bytes("abc"), expected[:1], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(of_bytes([""]), np.zeros((1, 64)))


def test_what_of_a_text_is_not_read_is_said(of_bytes):
    with pytest.warns(UserWarning, match=r"1 of 2 texts have more than 8 tokens.*ends are cut off"):
        features = of_bytes(["123456789", "12345678"])
    np.testing.assert_array_equal(features[0], features[1])


def test_text_whose_tokens_are_not_in_the_vocabulary_is_refused(of_bytes):
    """A tokenizer that knows more than the network."""
    few = dataclasses.replace(of_bytes.encoder, vocabulary=100)
    loaded = of_bytes._replace(encoder=few)
    assert "numbers from 126 to 126; those of this encoder" in refused(loaded, ["z"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("{}", "The tokenizer is damaged"),
        (TOKENIZER.replace('"naïve", ', ""), "its tokenizer has 6 tokens, its encoder 7"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_told(text_run, tmp_path, wrong, message):
    path = text_run / "encoder" / "seed0.safetensors"
    card = files.load(path).card
    card["encoder"]["tokenizer"] = wrong
    write(tmp_path / "other.safetensors", tensors_of(path), card)
    assert message in told(tmp_path / "other.safetensors")
