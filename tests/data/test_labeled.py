"""Few labels: how many of each class, which for which seed; and what must be labeled at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.data import labeled, tokenizer
from missing_bits.errors import UserError

CLASSES = ("ant", "bee", "cat")
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(3), (5, 9, 30)))


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(3, 12), min_size=1, max_size=4),
    per_class=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_so_many_of_each_class_and_none_twice(counts, per_class, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    drawn = labeled.few(labels, [str(i) for i in range(len(counts))], per_class, seed)
    assert len(set(drawn.tolist())) == len(drawn)
    assert np.bincount(labels[drawn]).tolist() == [per_class] * len(counts)
    np.testing.assert_array_equal(
        drawn, labeled.few(labels, [str(i) for i in range(len(counts))], per_class, seed)
    )


def test_seeds_draw_their_own_and_any_example_can_be_drawn():
    """Over 100 seeds every one of 30 cats is among the 4 drawn.

    Each is missed by all with chance (26 / 30)^100.
    """
    draws = [labeled.few(LABELS, CLASSES, 4, seed) for seed in range(100)]
    assert len({tuple(draw) for draw in draws}) == 100
    assert set(np.concatenate(draws).tolist()) == set(range(len(LABELS)))


def test_a_larger_draw_than_there_are_names_the_class_and_its_count():
    assert len(labeled.few(LABELS, CLASSES, 5, 0)) == 15
    with pytest.raises(
        UserError,
        match="--labels-per-class=6, but class ant has 5 examples to train on; ask for at",
    ):
        labeled.few(LABELS, CLASSES, 6, 0)


def test_a_class_that_is_tested_alone_is_left_out():
    """That is told where it is read; there is nothing to draw."""
    assert sorted(labeled.few(np.array([0, 0, 1, 1]), CLASSES, 2, 0)) == [0, 1, 2, 3]


def test_zero_takes_all_there_are():
    np.testing.assert_array_equal(labeled.few(LABELS, CLASSES, 0, 7), np.arange(44))


def test_images_keep_their_labels():
    """Digits: 1,797 images, 500 of them to test."""
    found = labeled.images("digits", "", 0)
    assert found.classes == tuple("0123456789")
    for part, count in ((found.train, 1_297), (found.test, 500)):
        assert part.inputs.shape == (count, 16, 16, 1)
        assert set(part.labels.tolist()) == set(range(10))
        assert len(part.labels) == count


def test_images_without_labels_are_refused(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    np.savez(tmp_path / "plain.npz", images=images)
    with pytest.raises(
        UserError, match=r"plain.npz has no labels; fine-tuning needs some in both splits"
    ):
        labeled.images(f"npz:{tmp_path / 'plain.npz'}", "", 0)


def test_labeled_images_are_used_where_those_to_train_on_have_no_labels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    labels = np.arange(8) % 2
    tested = {"test_images": images[:8], "test_labels": labels}
    np.savez(tmp_path / "set.npz", images=images[8:], **tested)
    found = labeled.images(f"npz:{tmp_path / 'set.npz'}", "", 0)
    for part in (found.train, found.test):
        assert np.bincount(part.labels).tolist() == [2, 2]


def test_text_is_cut_into_passages_of_whole_documents(tmp_path):
    """Ten files a class, of 24 bytes that no other file has, one of them to test.

    Each has three passages of 8 tokens.
    """
    for number, name in enumerate(("poems", "recipes")):
        (tmp_path / name).mkdir()
        for i in range(10):
            (tmp_path / name / f"{i}.txt").write_text(chr(97 + 10 * number + i) * 24)
    bytes_of = tokenizer.train([], "bytes", 0)
    found = labeled.text(f"txt:{tmp_path}", bytes_of, 8)
    assert found.classes == ("poems", "recipes")
    letters = {}
    for part, files in ((found.train, 8), (found.test, 1)):
        assert part.inputs.shape == (2 * files * 3, 8)
        texts = [bytes_of.decode(row) for row in part.inputs]
        assert [ord(text[0]) - 97 >= 10 for text in texts] == [bool(label) for label in part.labels]
        letters[files] = {text[0] for text in texts}
    assert not letters[8] & letters[1]


def test_text_without_classes_is_refused(tmp_path):
    (tmp_path / "one.txt").write_text("All of it lies in one file, and that is no class.\n" * 3)
    with pytest.raises(
        UserError,
        match="has no classes to tell apart; use stdlib, or txt:PATH of a folder with a sub",
    ):
        labeled.text(f"txt:{tmp_path}", tokenizer.train([], "bytes", 0), 8)


def test_text_that_the_tokenizer_does_not_know_is_told(tmp_path, capfd):
    """One made for Latin letters reads nothing in Greek ones."""
    for name in ("poems", "recipes"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.txt").write_text(f"αβγ δεζ {name[0] * i}")
    latin = tokenizer.train(["pr " * 9], "wordpiece", 64)
    labeled.text(f"txt:{tmp_path}", latin, 8)
    assert "stand for words that the tokenizer does not know; --token" in capfd.readouterr().err
    foreign = tokenizer.train(["xy " * 9], "wordpiece", 64)
    with pytest.raises(UserError, match="nothing in it is known to the tokenizer"):
        labeled.text(f"txt:{tmp_path}", foreign, 8)
