"""Generators in files: they come back as they were, and what is damaged or misused is refused."""

import errno
import json

import jax
import numpy as np
import pytest
from PIL import Image

from missing_bits import handover, memory, run
from missing_bits.errors import UserError
from missing_bits.generative import generators
from missing_bits.generative.generators import ImageGenerator


def save(folder, generator, **facts):
    variables = jax.device_get(jax.jit(generator.init)(jax.random.key(0)))
    path = folder / "generator" / "seed0.safetensors"
    generators.save(path, generator, variables, {"exp": "vae", **facts})
    return variables


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of runs: images, images of classes, points."""
    folder = tmp_path_factory.mktemp("runs")
    save(folder / "images", ImageGenerator((8, 8, 1), 5, width=4, norm="batch"))
    names = {"classes": ["cat", "dog", "owl"]}
    save(folder / "classes", ImageGenerator((8, 8, 3), 5, "mlp", 4, classes=3), **names)
    save(folder / "pairs", ImageGenerator((8, 8, 2), 5, "mlp", 4))
    save(folder / "line", ImageGenerator((1, 8, 1), 5, "mlp", 4))
    save(folder / "points", ImageGenerator((1, 1, 2), 5, "mlp", 4, head="linear"))
    return folder


@pytest.mark.parametrize("head", ["sigmoid", "tanh", "linear", "scales", "shared_scale"])
def test_a_generator_comes_back_as_it_was(head, tmp_path):
    generator = ImageGenerator((8, 8, 2), 5, "mlp", 4, head=head)
    variables = save(tmp_path, generator)
    loaded = generators.load(tmp_path)
    assert loaded.generator == generator
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    z = jax.random.normal(jax.random.key(1), (3, 5))
    numbers, _ = generator.apply(variables, z)
    assert numbers.shape == (3, 8, 8, 4 if head in ("scales", "shared_scale") else 2)
    np.testing.assert_allclose(loaded(z), generator.images(numbers), atol=1e-6)


def test_a_scale_of_latents_is_theirs_and_comes_back(tmp_path):
    """Latents z with a scale of 4 give what 4 z give without; a file tells the scale."""
    plain = ImageGenerator((1, 1, 2), 5, "mlp", 4, head="linear")
    steep = ImageGenerator((1, 1, 2), 5, "mlp", 4, head="linear", latent_scale=4.0)
    variables = save(tmp_path, steep)
    z = jax.random.normal(jax.random.key(1), (3, 5))
    expected = plain.generate(variables, 4 * z)
    np.testing.assert_allclose(generators.load(tmp_path)(z), expected, atol=1e-6)
    assert np.abs(plain.generate(variables, z) - expected).max() > 1e-3


def test_heads_make_images_of_numbers_by_hand():
    numbers = np.array([0.0, np.log(3), -np.log(3)]).reshape(3, 1, 1, 1)
    sigmoid = ImageGenerator((1, 1, 1), 2).images(numbers)
    np.testing.assert_allclose(np.ravel(sigmoid), [0.5, 0.75, 0.25], atol=1e-6)
    tanh = ImageGenerator((1, 1, 1), 2, head="tanh").images(numbers)  # tanh(log 3) = 0.8
    np.testing.assert_allclose(np.ravel(tanh), [0.5, 0.9, 0.1], atol=1e-6)


def test_samples_are_drawn_from_the_prior_and_repeat(runs):
    loaded = generators.load(runs / "classes")
    made = loaded.sample(jax.random.key(3), 7)
    assert made.images.shape == (7, 8, 8, 3)
    assert made.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    z = jax.random.normal(jax.random.key(3), (7, 5))
    np.testing.assert_array_equal(made.images, loaded(z, made.labels))
    assert np.ptp(made.images[[0, 3, 6]], axis=0).max() > 0


@pytest.mark.parametrize(
    ("name", "z", "labels", "named"),
    [
        ("images", np.zeros((2, 4)), None, "takes (images, 5)"),
        ("images", np.zeros(5), None, "takes (images, 5)"),
        ("images", np.full((1, 5), np.nan), None, "NaN"),
        ("images", np.zeros((2, 5)), [0, 1], "knows no classes"),
        ("classes", np.zeros((2, 5)), None, "of 3 classes; say which"),
        ("classes", np.zeros((2, 5)), [0, 3], "2 integers from 0 to 2"),
        ("classes", np.zeros((2, 5)), [0.0, 1.0], "2 integers from 0 to 2"),
    ],
)
def test_what_a_generator_does_not_take_is_refused(name, z, labels, named, runs):
    with pytest.raises(UserError) as refused:
        generators.load(runs / name)(z, labels)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"latent": 0}, "latent is 0"),
        ({"width": 1 << 20}, "width is 1048576"),
        ({"image_shape": [8, 0, 1]}, "must hold 1 to"),
        ({"network": "pickle"}, "network has a wrong type"),
        ({"latent": 6}, "has the shape"),
        ({"latent_scale": 0}, "latent_scale is 0"),
        ({"latent_scale": 1e30}, "latent_scale has a wrong type or size"),
        ({"more": 1}, "unknown 'more'"),
    ],
)
def test_a_damaged_card_is_refused(changed, named, runs, tmp_path):
    loaded = generators.load(runs / "images")
    card = dict(loaded.card)
    card["generator"] = {**card["generator"], **changed}
    path = tmp_path / "seed0.safetensors"
    handover.save(path, loaded.variables._asdict(), json.loads(json.dumps(card)))
    with pytest.raises(UserError) as refused:
        generators.load(path)
    assert named in str(refused.value)


@pytest.mark.parametrize("classes", [5, "abc", ["a"], ["a", "b", 3]])
def test_a_card_with_other_names_of_classes_is_refused(classes, runs, tmp_path):
    loaded = generators.load(runs / "classes")
    path = tmp_path / "seed0.safetensors"
    handover.save(path, loaded.variables._asdict(), {**loaded.card, "classes": classes})
    with pytest.raises(UserError, match="classes"):
        generators.load(path)


def sample(*options):
    return run.main(["sample", *map(str, options)])


def test_a_picture_and_a_file_of_samples(runs, tmp_path, capsys):
    assert sample("--from", runs / "images", f"--out={tmp_path / 'a.png'}", "--num=9") == 0
    assert capsys.readouterr().err == f"9 images: {tmp_path / 'a.png'}\n"
    with Image.open(tmp_path / "a.png") as picture:
        picture.verify()
    assert sample("--from", runs / "line", f"--out={tmp_path / 'line.png'}") == 0
    out = f"--out={tmp_path / 'a.npz'}"
    of_dogs = "--num=600", "--class=dog", "--seed=4"
    assert sample("--from", runs / "classes", out, *of_dogs, "--probabilities") == 0
    found = np.load(tmp_path / "a.npz")
    assert found["images"].shape == (600, 8, 8, 3)
    assert found["images"].dtype == np.uint8
    assert set(found["labels"]) == {1}
    loaded = generators.load(runs / "classes")
    z = jax.random.normal(jax.random.key(4), (600, 1, 5))[:, 0]
    expected = np.rint(255 * np.asarray(loaded(z, np.full(600, 1))))
    np.testing.assert_allclose(found["images"], expected, atol=1)
    assert sample("--from", runs / "classes", out, *of_dogs) == 0
    drawn = np.load(tmp_path / "a.npz")["images"]
    assert set(np.unique(drawn)) == {0, 255}, "a model of black and white draws it"
    # The mean of 115,200 independent bits.
    assert drawn.mean() == pytest.approx(expected.mean(), abs=4 * 128 / np.sqrt(drawn.size))
    file = runs / "points" / "generator" / "seed0.safetensors"
    assert sample("--from", file, out, "--num=5") == 0
    assert np.load(tmp_path / "a.npz")["points"].shape == (5, 2)


def test_a_file_stays_as_it_was_until_another_is_whole(runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "a.npz"
    assert sample("--from", runs / "images", f"--out={out}", "--num=2") == 0
    before = out.read_bytes()

    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert sample("--from", runs / "images", f"--out={out}", "--num=3") != 0
    assert "No space left" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("images", ["--num=9000000"], "--num=9000000 needs"),
        ("points", ["--probabilities"], "--probabilities is for models of black and white"),
    ],
)
def test_what_does_not_fit_is_refused(name, options, told, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "available", lambda: 1 << 30)
    out = tmp_path / "a.npz"
    assert sample("--from", runs / name, f"--out={out}", *options) != 0
    assert told in capsys.readouterr().err
    assert not out.exists()


def test_interpolations_begin_and_end_with_draws(runs, tmp_path):
    out = tmp_path / "a.npz"
    assert sample("--from", runs / "images", f"--out={out}", "--num=2", "--interpolate") == 0
    images = np.load(out)["images"].reshape(2, 10, 8, 8, 1)
    z = jax.random.normal(jax.random.key(0), (2, 2, 5))
    ends = generators.load(runs / "images").decode(z.reshape(4, 5)).images.reshape(2, 2, 8, 8, 1)
    np.testing.assert_allclose(images[:, [0, 9]], np.rint(255 * ends), atol=1)


def test_the_great_circle_keeps_lengths_and_turns_evenly():
    start = np.array([[2.0, 0.0], [1.0, 1.0]])
    end = np.array([[0.0, 2.0], [1.0, 1.0]])
    between = generators.interpolated(start, end, 3)
    root = np.sqrt(2)
    np.testing.assert_allclose(between[0], [[2, 0], [root, root], [0, 2]], atol=1e-6)
    np.testing.assert_allclose(between[1], np.ones((3, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "option", "named"),
    [
        ("images", "--num=0", "--num is 0"),
        ("pairs", "--num=2", "images of 2 channels; a picture has 1 or 3"),
        ("classes", f"--class={'9' * 5_000}", "is unknown; it is cat, dog, owl, or a number"),
        ("images", "--num=3000", "--num is 3000, which makes 3,000 images; a picture takes 2,000"),
        ("images", "--out=a.jpg", "--out=a.jpg must end in .png"),
        ("images", "--class=1", "knows no classes; train one with --conditional"),
        ("classes", "--class=cow", "--class=cow is unknown; it is cat, dog, owl, or a number"),
        ("classes", "--class=3", "--class=3 is unknown"),
        ("images", "--prompt=a", "--prompt"),
        ("points", "--num=2", "generates points of 2 numbers, no images"),
        ("images", "--out=/proc/none/a.png", "--out=/proc/none/a.png cannot be written"),
    ],
)
def test_a_mistake_gets_one_line(name, option, named, runs, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sample(f"--from={runs / name}", option) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named in line
