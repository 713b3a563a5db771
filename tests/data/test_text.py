"""The options of text, and the rows that come of them."""

import dataclasses

import numpy as np
import pytest

from missing_bits.data import text, tokenizer
from missing_bits.data.load import load_text
from missing_bits.data.packing import pack
from missing_bits.data.tokenizer import SEP
from missing_bits.errors import UserError

LINES = "".join(f"line {number} says {number % 7} and {number % 5}\n" for number in range(400))


@pytest.fixture
def options(tmp_path):
    (tmp_path / "some.txt").write_text(LINES)
    return text.Text(f"txt:{tmp_path / 'some.txt'}", length=16, vocabulary=64)


@pytest.mark.parametrize("kind", ["wordpiece", "bytes"])
def test_every_split_is_cut_and_packed_alike(options, kind):
    options = dataclasses.replace(options, tokenizer=kind)
    options.check("")
    found = options.read()
    corpus = load_text(options.data)
    assert found.digest == corpus.digest
    words = tokenizer.train([document.text for document in corpus.train], kind, 64)
    assert found.words.to_json() == words.to_json()
    for split in ("train", "validation", "test"):
        rows = getattr(found, split)
        texts = [document.text for document in getattr(corpus, split)]
        expected = pack(words.encode_all(texts), 16)
        assert rows.tokens.shape[1] == 16
        for array, wanted in zip(rows, expected, strict=True):
            np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "characters", "bytes"])
def test_streams_hold_every_document_between_its_ends(options, kind):
    options = dataclasses.replace(options, tokenizer=kind, vocabulary=300)
    found = options.read_streams()
    corpus = load_text(options.data)
    assert found.digest == corpus.digest
    for split in ("train", "validation", "test"):
        stream = getattr(found, split)
        documents = getattr(corpus, split)
        assert stream.size == sum(len(document.text.encode()) for document in documents)
        assert stream.tokens.dtype == np.int32
        assert stream.tokens[0] == stream.tokens[-1] == SEP
        ends = np.flatnonzero(stream.tokens == SEP)
        assert len(ends) == len(documents) + 1
        for document, start, end in zip(documents, ends[:-1], ends[1:], strict=True):
            ids = stream.tokens[start + 1 : end]
            np.testing.assert_array_equal(ids, found.words.encode(document.text).ids)


def test_the_end_of_a_file_may_be_held_out(options):
    """The last tenth of its characters, though paragraphs come again: nanoGPT's split."""
    options = dataclasses.replace(options, tokenizer="characters", split="end")
    options.check("")
    found = options.read_streams()
    whole = LINES[: len(LINES) * 9 // 10]
    assert found.words.decode(found.train.tokens[1:-1]) == whole
    assert found.words.decode(found.validation.tokens[1:-1]) == LINES[len(whole) :]
    np.testing.assert_array_equal(found.test.tokens, found.validation.tokens)


def test_a_vocabulary_larger_than_the_text_is_refused_and_a_smaller_one_told(
    options, tmp_path, capfd
):
    options = dataclasses.replace(options, tokenizer="bpe", vocabulary=6_000)
    found = options.read_streams()
    assert (
        f"yields {found.words.size:,} different tokens of --vocabulary=6000"
        in capfd.readouterr().err
    )
    with pytest.raises(UserError, match="--vocabulary=90000 is larger than the text: there are"):
        dataclasses.replace(options, vocabulary=90_000).read_streams()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"length": 1}, "--text.length is 1; a row needs at least 2 tokens"),
        ({"vocabulary": 7}, "--text.vocabulary is 7; it must be at least 8"),
        (
            {"vocabulary": 1_000_000_000},
            "--text.vocabulary is 1000000000; it must be at most 1,000,000, and of use are some",
        ),
        ({"data": "photos"}, "--text.data=photos is a set of images; here it must be text: topics"),
        ({"data": "topic"}, r"--text.data=topic is not text. Did you mean topics\?"),
        (
            {"tokenizer": "bpe", "vocabulary": 259},
            "--text.vocabulary is 259; it must be at least 260",
        ),
        (
            {"data": "topics", "split": "end"},
            "--text.split=end is for a single file, --text.data=txt",
        ),
        ({"data": "txt:"}, "--text.data=txt: names no path; write txt:PATH"),
    ],
)
def test_mistakes_are_told_in_one_line(options, changed, message):
    with pytest.raises(UserError, match=message) as caught:
        dataclasses.replace(options, **changed).check("text.")
    assert "\n" not in str(caught.value)


def test_a_split_shorter_than_a_row_is_named(options):
    with pytest.raises(UserError, match="the validation split has only"):
        dataclasses.replace(options, length=1_000, vocabulary=1_000).read()
    with pytest.raises(UserError, match="the validation split has only"):
        dataclasses.replace(options, length=1_000, vocabulary=1_000).read_streams()


def test_unknown_words_are_told_and_nothing_but_them_refused(options, tmp_path, capfd):
    """A word of 100 characters has pieces; one of 101 is unknown, whatever its letters."""
    for length in (100, 101):
        (tmp_path / "some.txt").write_text(LINES + f"\n{'ab' * 50}{'c' * (length - 100)}" * 3)
        capfd.readouterr()
        options.read()
        said = capfd.readouterr().err
        assert ("3 of them longer than 100 characters; --tokenizer=bytes" in said) == (length > 100)
    (tmp_path / "some.txt").write_text("ab" * 5_000)
    with pytest.raises(
        UserError, match="nothing in the train split is known to the tokenizer: its"
    ):
        options.read()
    rows = dataclasses.replace(options, tokenizer="bytes").read().train.tokens
    assert rows.shape == (501, 16)  # 8,000 characters and the SEPs of five pieces
