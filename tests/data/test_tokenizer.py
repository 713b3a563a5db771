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


@pytest.mark.parametrize("written", [Tokenizer.to_json, Tokenizer.to_library_json])
@pytest.mark.parametrize("kind", ["small", "plain"])
def test_json_keeps_everything(kind, written, request):
    """Also that of the library `tokenizers`, as runs stored it until version 0.2."""
    tokens = request.getfixturevalue(kind)
    again = Tokenizer.from_json(written(tokens))
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


SPECIAL = ["[PAD]", "[UNK]", "[SEP]", "[MASK]"]


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("", "The tokenizer is damaged"),
        ("{}", "The tokenizer is damaged"),
        ("7", "The tokenizer is damaged"),
        ("[" * 100_000, "The tokenizer is damaged"),
        ({"kind": "wordpiece", "vocabulary": 7}, r"its first tokens are \[\], expected \[PAD\]"),
        ({"kind": "wordpiece", "vocabulary": SPECIAL[1:]}, "its first tokens are "),
        ({"kind": "wordpiece", "vocabulary": [*SPECIAL, "a", "a"]}, "of its 6 tokens some are"),
        ({"kind": "wordpiece", "vocabulary": [*SPECIAL, ""]}, "of its 5 tokens some are empty"),
        ({"kind": "wordpiece", "vocabulary": [*SPECIAL, 7]}, "of its 5 tokens some are"),
        ({"kind": "regex", "vocabulary": SPECIAL}, "of kind 'regex'; this suite has wordpiece and"),
        ({"kind": ["bytes"]}, "The tokenizer is of kind"),
        (
            {"model": {"type": "Unigram", "vocab": {}}},
            "The tokenizer is damaged or of another kind",
        ),
        ({"model": {"type": "WordPiece", "vocab": {"[PAD]": 7}}}, "ids are missing"),
        ({"model": {"type": "WordPiece", "vocab": {"[UNK]": 0}}}, "its first tokens are "),
    ],
)
def test_damaged_json_is_told(stored, message):
    written = stored if isinstance(stored, str) else json.dumps(stored)
    with pytest.raises(UserError, match=message) as caught:
        Tokenizer.from_json(written)
    assert "\n" not in str(caught.value)


def test_nothing_but_the_vocabulary_is_taken_from_a_description(small):
    """A regular expression that takes for ever is never compiled, nor a foreign rule followed."""
    described = json.loads(small.to_library_json())
    described["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "((t+)+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    described["normalizer"] = {"type": "Lowercase"}
    again = Tokenizer.from_json(json.dumps(described))
    assert again.to_library_json() == small.to_library_json()
    text = "The " + "t" * 60 + "!"
    np.testing.assert_array_equal(again.encode(text).ids, small.encode(text).ids)


def test_words_over_a_hundred_characters_are_counted(small, plain):
    text = f"the {'a' * 100} {'a' * 101} cat,{'s' * 102}, {'a,' * 200}"
    assert small.too_long(text) == 2
    assert small.encode(text).ids.tolist().count(UNK) == 2
    assert plain.too_long(text) == 0


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
