"""Text as tokens: what is known, what a word is, and that training is repeatable."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.data import tokenizer, topics
from missing_bits.data.tokenizer import MASK, PAD, SEP, SPECIALS, UNK, Tokenizer
from missing_bits.errors import UserError

SMALL = [
    "the cat sang, the cats sing; The cat's song! " * 3,
    "singing cat_songs (the [MASK])\n\n" * 3,
]
SCRIPT = """
import hashlib
from missing_bits.data import tokenizer, topics
texts = [document.text for document in topics.load().train]
print(hashlib.sha256(tokenizer.train(texts, "wordpiece", 1000).to_json().encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def small():
    return tokenizer.train(SMALL, "wordpiece", 100)


@pytest.fixture(scope="module")
def plain():
    return tokenizer.train([], "bytes", 0)


@pytest.fixture(scope="module")
def trained():
    return tokenizer.train([document.text for document in topics.load().train], "wordpiece", 1000)


def spelled(tokens, encoded):
    return [tokens.token(number) for number in encoded.ids]


def test_training_is_the_same_in_every_process(trained):
    """Hash tables of Python and of the library are seeded anew in each."""
    found = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout.decode()
        for seed in ("1", "2")
    ]
    assert found == [hashlib.sha256(trained.to_json().encode()).hexdigest() + "\n"] * 2


def test_the_vocabulary_has_its_size_and_special_tokens_first(trained, small, plain):
    assert trained.size == 1000
    assert plain.size == 256 + SPECIALS
    assert SPECIALS < small.size <= 100  # these texts do not yield more
    for tokens in (trained, small, plain):
        assert [tokens.token(i) for i in (PAD, UNK, SEP, MASK)] == [
            "[PAD]",
            "[UNK]",
            "[SEP]",
            "[MASK]",
        ]
        spellings = [tokens.token(i) for i in range(tokens.size)]
        assert len(set(spellings)) == tokens.size
        assert None not in spellings


def test_words_by_hand(small):
    """White space and every sign of punctuation part words."""
    encoded = small.encode("The cat's\n  song, cat_song")
    assert small.decode(encoded.ids) == "The cat ' s song , cat _ song"
    words = ["The", "cat", "'", "s", "song", ",", "cat", "_", "song"]
    found = [""] * len(words)
    for spelling, word in zip(spelled(small, encoded), encoded.words, strict=True):
        found[word] += spelling.removeprefix("##")
    assert found == words
    assert encoded.ids.dtype == encoded.words.dtype == np.int32


def test_a_word_in_pieces_is_one_word(small):
    encoded = small.encode("the gnisgnis the")
    assert len(encoded.ids) > 3
    assert encoded.words.tolist() == [0, *[1] * (len(encoded.ids) - 2), 2]
    pieces = spelled(small, encoded)[1:-1]
    assert not pieces[0].startswith("##")
    assert all(piece.startswith("##") for piece in pieces[1:])
    assert small.decode(encoded.ids) == "the gnisgnis the"


def test_unknown_letters_make_a_word_unknown(small):
    assert small.encode("the ßx cat").ids[1] == UNK
    assert small.encode("the ßx cat").words.tolist() == [0, 1, 2]


def test_rare_letters_take_at_most_half_of_the_vocabulary():
    letters = "".join(chr(0x4E00 + i) for i in range(500))
    tokens = tokenizer.train([letters + " " + letters[:10] * 5], "wordpiece", 84)
    assert tokens.size <= 84
    known = [UNK not in tokens.encode(letter).ids for letter in letters]
    assert (
        known == [True] * 20 + [False] * 480
    )  # (84 - 4) / 4 letters; of equally frequent ones the first


@pytest.mark.parametrize("kind", ["small", "plain"])
def test_special_tokens_are_characters_unless_asked_for(kind, request):
    tokens = request.getfixturevalue(kind)
    text = "the [MASK] cat[MASK]s"
    without = tokens.encode(text)
    within = tokens.encode(text, specials=True)
    assert min(without.ids) >= SPECIALS
    assert within.ids.tolist().count(MASK) == 2
    place = within.ids.tolist().index(MASK)
    assert within.words[place - 1] < within.words[place] < within.words[place + 1]
    np.testing.assert_array_equal(
        tokens.encode_all([text])[0].ids, without.ids
    )  # asking once changes nothing later
    assert MASK in tokens.encode(text, specials=True).ids
    np.testing.assert_array_equal(tokens.encode(text).ids, without.ids)
    assert "[MASK]" in tokens.decode(within.ids)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_bytes_come_back_exactly(plain, text):
    encoded = plain.encode(text)
    assert (encoded.ids - SPECIALS).tolist() == list(text.encode())
    assert plain.decode(encoded.ids) == text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="abc ,.[]MASK_é猫\n\u0301\t", max_size=40), max_size=4))
def test_words_count_up_without_gaps_and_all_at_once_is_one_by_one(trained, plain, texts):
    for tokens in (trained, plain):
        together = tokens.encode_all(texts)
        for text, found in zip(texts, together, strict=True):
            alone = tokens.encode(text)
            np.testing.assert_array_equal(found.ids, alone.ids)
            np.testing.assert_array_equal(found.words, alone.words)
            assert set(np.diff(found.words, prepend=-1)) <= {0, 1}


def test_bytes_go_by_words_with_the_space_before(plain):
    assert plain.encode("a cat's").words.tolist() == [0, 1, 1, 1, 1, 2, 2]


def test_bytes_are_spelled_readably(plain):
    assert [plain.token(SPECIALS + byte) for byte in (32, 65, 10, 255)] == [
        " ",
        "A",
        "<0x0a>",
        "<0xff>",
    ]


@pytest.mark.parametrize("kind", ["small", "plain"])
def test_json_keeps_everything(kind, request):
    tokens = request.getfixturevalue(kind)
    again = Tokenizer.from_json(tokens.to_json())
    assert again.to_json() == tokens.to_json()
    for text in ("the cats [MASK] é", ""):
        for specials in (False, True):
            np.testing.assert_array_equal(
                again.encode(text, specials).ids, tokens.encode(text, specials).ids
            )
        assert again.decode(again.encode(text).ids) == tokens.decode(tokens.encode(text).ids)
    assert [again.token(i) for i in range(again.size)] == [
        tokens.token(i) for i in range(tokens.size)
    ]


def test_damaged_json_is_told(small):
    good = small.to_json()
    for bad in ("", "{}", good[:-20], good.replace("WordPiece", "Other")):
        with pytest.raises(UserError, match="The tokenizer is damaged") as caught:
            Tokenizer.from_json(bad)
        assert "\n" not in str(caught.value)
    other = json.loads(good)
    other["added_tokens"] = []
    other["model"]["vocab"] = {"[UNK]": 0}
    with pytest.raises(
        UserError,
        match=r"of another kind: .* have the ids \[None, 0, None, None\], expected 0 to 3",
    ):
        Tokenizer.from_json(json.dumps(other))


def test_a_fork_after_encoding_warns_nothing():
    script = (
        "import os\nfrom missing_bits.data import tokenizer\n"
        "tokenizer.train([], 'bytes', 0).encode_all(['a b', 'c d'])\n"
        "pid = os.fork()\nif not pid: tokenizer.train([], 'bytes', 0).encode('a'); os._exit(0)\n"
        "os.waitpid(pid, 0)"
    )
    environ = {
        name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"
    }
    found = subprocess.run(
        [sys.executable, "-c", script], env=environ, check=True, capture_output=True
    )
    assert (found.stdout, found.stderr) == (b"", b"")
