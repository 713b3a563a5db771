"""Rows of tokens: by hand, and what holds for all documents."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.data import packing, tokenizer
from missing_bits.data.documents import Document
from missing_bits.data.tokenizer import PAD, SEP, SPECIALS, Encoded
from missing_bits.errors import UserError
from missing_bits.numeric import ceil_div


def encoded(words):
    """A document of words, each a list of tokens."""
    ids = [number for word in words for number in word]
    return Encoded(
        np.array(ids, np.int32),
        np.repeat(np.arange(len(words)), [len(w) for w in words]).astype(np.int32),
    )


# Small ids, that a word or a document often equals the next.
DOCUMENTS = st.lists(
    st.lists(st.lists(st.integers(4, 6), min_size=1, max_size=4), max_size=6).map(encoded),
    min_size=1,
    max_size=8,
)


def test_rows_by_hand():
    packed = packing.pack([encoded([[5, 6], [7]]), encoded([]), encoded([[8], [9, 9, 9]])], 5)
    np.testing.assert_array_equal(packed.tokens, [[5, 6, 7, 2, 2], [8, 9, 9, 9, 2]])
    np.testing.assert_array_equal(packed.segments, [[1, 1, 1, 1, 2], [1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(packed.words, [[0, 0, 1, 2, 3], [0, 1, 1, 1, 2]])
    packed = packing.pack([encoded([[5, 6], [7]]), encoded([[8], [9, 9, 9]])], 7)
    np.testing.assert_array_equal(packed.tokens, [[5, 6, 7, 2, 8, 9, 9], [9, 2, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(packed.segments, [[1, 1, 1, 1, 2, 2, 2], [1, 1, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(packed.words, [[0, 0, 1, 2, 3, 4, 4], [0, 1, -1, -1, -1, -1, -1]])
    assert {array.dtype for array in packed} == {np.dtype(np.int32)}


@settings(max_examples=60, deadline=None)
@given(documents=DOCUMENTS, length=st.integers(1, 12))
def test_rows_hold_the_documents_and_nothing_else(documents, length):
    total = sum(len(document.ids) + 1 for document in documents)
    if total < length:
        with pytest.raises(
            UserError, match=f"--length={length} is longer .*only {total} tokens; ask for less"
        ):
            packing.pack(documents, length)
        return
    packed = packing.pack(documents, length)
    for array in packed:
        assert array.shape == (ceil_div(total, length), length)
    padded = packed.segments == 0
    assert padded.ravel().tolist() == [False] * total + [True] * (-total % length)
    np.testing.assert_array_equal(padded, packed.words == -1)
    np.testing.assert_array_equal(padded, packed.tokens == PAD)
    flat = packed.tokens[~padded]
    expected = [token for document in documents for token in (*document.ids, SEP)]
    assert flat.tolist() == expected


@settings(max_examples=60, deadline=None)
@given(documents=DOCUMENTS, length=st.integers(1, 12))
def test_segments_and_words_are_documents_and_words(documents, length):
    """In every row numbers are equal where, and only where, document or word are the same.

    They count up from 1 and 0.
    """
    owners = []  # for each token, its document and word
    for number, document in enumerate(documents):
        owners += [(number, word) for word in document.words.tolist()] + [(number, "SEP")]
    if len(owners) < length:
        return
    packed = packing.pack(documents, length)
    for row in range(len(packed.tokens)):
        mine = owners[row * length : (row + 1) * length]
        segments = packed.segments[row, : len(mine)].tolist()
        words = packed.words[row, : len(mine)].tolist()
        seen = list(dict.fromkeys(number for number, _ in mine))
        assert segments == [1 + seen.index(number) for number, _ in mine]
        seen = list(dict.fromkeys(mine))
        assert words == [seen.index(owner) for owner in mine]


def test_packing_real_text_gives_it_back():
    tokens = tokenizer.train([], "bytes", 0)
    texts = ["Über alles\n", "", "two  words"]
    packed = packing.pack(tokens.encode_all(texts), 4)
    parts = np.split(packed.tokens.ravel(), np.flatnonzero(packed.tokens == SEP) + 1)
    assert [tokens.decode(part[:-1]) for part in parts[:3]] == texts


def spelled(window):
    return bytes(int(token) - SPECIALS for token in window if token != PAD).decode()


def test_passages_by_hand():
    """Windows of 4 bytes: of a longer document a rest of 2 is kept, of 1 dropped."""
    texts = {"abcdefghij": "p", "abcdefghi": "q", "skipped": "", "a": "p", "abcd": "q", "": "p"}
    documents = [Document(text, text, label) for text, label in texts.items()]
    windows, labels = packing.passages(
        documents, tokenizer.train([], "bytes", 0), 4, ("o", "p", "q")
    )
    assert [spelled(window) for window in windows] == [
        "abcd",
        "efgh",
        "ij",
        "abcd",
        "efgh",
        "a",
        "abcd",
    ]
    assert labels.tolist() == [1, 1, 1, 2, 2, 1, 2]
    assert windows.shape == (7, 4)
    assert windows[2].tolist() == [SPECIALS + ord("i"), SPECIALS + ord("j"), PAD, PAD]
    assert windows.dtype == labels.dtype == np.int32


def test_no_labels_are_no_passages():
    windows, labels = packing.passages(
        [Document("a", "a", "")], tokenizer.train([], "bytes", 0), 4, ()
    )
    assert (windows.shape, labels.shape) == ((0, 4), (0,))


@settings(max_examples=40, deadline=None)
@given(text=st.text(alphabet="abcdef", min_size=1, max_size=40), length=st.integers(1, 12))
def test_passages_are_the_start_of_a_document(text, length):
    windows, labels = packing.passages(
        [Document("", text, "p")], tokenizer.train([], "bytes", 0), length, ("p",)
    )
    found = "".join(map(spelled, windows))
    assert text.startswith(found)
    assert 2 * (len(text) - len(found)) < length
    assert labels.tolist() == [0] * len(windows)
