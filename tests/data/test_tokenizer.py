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
for kind in ("wordpiece", "bpe"):
    print(hashlib.sha256(tokenizer.train(texts, kind, 1000).to_json().encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def small():
    return tokenizer.train(SMALL, "wordpiece", 100)


@pytest.fixture(scope="module")
def plain():
    return tokenizer.train([], "bytes", 0)


@pytest.fixture(scope="module")
def pairs():
    return tokenizer.train(SMALL, "bpe", 300)


@pytest.fixture(scope="module")
def letters():
    return tokenizer.train([*SMALL, "é猫"], "characters", 0)


@pytest.fixture(scope="module")
def trained():
    return tokenizer.train([document.text for document in topics.load().train], "wordpiece", 1000)


@pytest.fixture(scope="module")
def merged():
    return tokenizer.train([document.text for document in topics.load().train], "bpe", 1000)


def spelled(tokens, encoded):
    return [tokens.token(number) for number in encoded.ids]


def test_training_is_the_same_in_every_process(trained, merged):
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
    hashes = [
        hashlib.sha256(tokens.to_json().encode()).hexdigest() + "\n" for tokens in (trained, merged)
    ]
    assert found == ["".join(hashes)] * 2


def test_the_vocabulary_has_its_size_and_special_tokens_first(
    trained, merged, small, plain, pairs, letters
):
    assert trained.size == merged.size == 1000
    assert letters.size == len({*"".join(SMALL), *"é猫"}) + SPECIALS
    assert plain.size == 256 + SPECIALS
    assert SPECIALS < small.size <= 100  # these texts do not yield more
    for tokens in (trained, merged, small, plain, pairs, letters):
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


def test_bytes_of_what_is_unknown_are_counted(small, letters):
    """Of words all bytes, known letters too: ß has 2, x 1; of characters those alone: 🐈 has 4."""
    assert small.unknown_bytes("the ßx cat, ßx") == 6
    assert small.unknown_bytes("the cat") == 0
    assert letters.unknown_bytes("a cat,\n é猫🐈sß") == 6
    assert letters.unknown_bytes("") == 0
    assert tokenizer.train([], "bytes", 0).unknown_bytes("ß") == 0


def test_rare_letters_take_at_most_half_of_the_vocabulary():
    letters = "".join(chr(0x4E00 + i) for i in range(500))
    tokens = tokenizer.train([letters + " " + letters[:10] * 5], "wordpiece", 84)
    assert tokens.size <= 84
    known = [UNK not in tokens.encode(letter).ids for letter in letters]
    assert (
        known == [True] * 20 + [False] * 480
    )  # (84 - 4) / 4 letters; of equally frequent ones the first


@pytest.mark.parametrize("kind", ["small", "plain", "pairs", "letters"])
def test_special_tokens_are_characters_unless_asked_for(kind, request):
    tokens = request.getfixturevalue(kind)
    text = "the [MASK] cat[MASK]s"
    without = tokens.encode(text)
    within = tokens.encode(text, specials=True)
    assert min(without.ids) >= SPECIALS
    assert within.ids.tolist().count(MASK) == 2
    if kind in ("small", "plain"):
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
@given(st.text(max_size=60) | st.text(alphabet="the cats, [MASK]\nsé猫\U0001f408", max_size=60))
def test_byte_pairs_come_back_exactly(pairs, merged, text):
    """Whatever they were trained on; their spellings put together are the text's bytes."""
    for tokens in (pairs, merged):
        ids = tokens.encode(text).ids
        assert (ids >= SPECIALS).all()
        assert tokens.decode(ids) == text
        assert b"".join(tokens.spelled(number) for number in ids) == text.encode()


def test_byte_pairs_are_merged_in_their_order(pairs, merged):
    """Bytes have the ids that they have alone; later ones stand for two earlier tokens."""
    assert pairs.spelled(SPECIALS + 65) == b"A"
    stored = json.loads(merged.to_json())["merges"]
    assert len(stored) == 1000 - tokenizer.BYTES
    for number, (left, right) in enumerate(stored, tokenizer.BYTES):
        assert merged.spelled(number) == merged.spelled(left) + merged.spelled(right)
    assert len(merged.encode(" the statement").ids) < 5


def test_characters_are_those_of_the_text(letters):
    """Also beyond the first 65,536; one that it lacks is unknown."""
    encoded = letters.encode("a cat,\n é猫🐈s")
    assert [letters.token(number) for number in encoded.ids] == [*"a cat,\n é猫", "[UNK]", "s"]
    assert encoded.words.tolist() == [0, *[1] * 5, *[2] * 6]
    assert letters.decode(encoded.ids) == "a cat,\n é猫[UNK]s"
    assert letters.encode("").ids.shape == (0,)
    library = letters._library.encode("a cat,\n é猫🐈s").ids
    np.testing.assert_array_equal(encoded.ids, library)  # for other programs


def test_what_a_token_is_spelled_like(small, plain, letters):
    """Put together it is the text, of words with a space before each."""
    ids = small.encode("the gnisgnis, cat").ids
    assert b"".join(small.spelled(number) for number in ids) == b" the gnisgnis , cat"
    assert letters.spelled(letters.encode("é").ids[0]) == "é".encode()
    assert plain.spelled(SPECIALS + 200) == bytes([200])
    assert [tokens.spelled(SEP) for tokens in (small, plain, letters)] == [b""] * 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="abc ,.[]MASK_é猫\n\u0301\t", max_size=40), max_size=4))
def test_words_count_up_without_gaps_and_all_at_once_is_one_by_one(
    trained, merged, plain, letters, texts
):
    for tokens in (trained, merged, plain, letters):
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


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("small", Tokenizer.to_json),
        ("plain", Tokenizer.to_json),
        ("pairs", Tokenizer.to_json),
        ("letters", Tokenizer.to_json),
        ("small", Tokenizer.to_library_json),
        ("plain", Tokenizer.to_library_json),
    ],
)
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
        (
            {"kind": "regex", "vocabulary": SPECIAL},
            "of kind 'regex'; this suite has wordpiece, bpe",
        ),
        ({"kind": ["bytes"]}, "The tokenizer is of kind"),
        ({"kind": "bpe"}, "its merges are no pairs of earlier tokens"),
        ({"kind": "bpe", "merges": [[4, 260]]}, "its merges are no pairs of earlier tokens"),
        ({"kind": "bpe", "merges": [[3, 5]]}, "its merges are no pairs of earlier tokens"),
        ({"kind": "bpe", "merges": [[4, True]]}, "its merges are no pairs of earlier tokens"),
        ({"kind": "bpe", "merges": [[4, 5], [4, 5], [4, 261]]}, "it merges what is not there yet"),
        ({"kind": "characters", "characters": "aba"}, "its characters are no text, none, there"),
        ({"kind": "characters", "characters": ["a"]}, "its characters are no text"),
        (
            {"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}},
            "The tokenizer is damaged or of another kind",
        ),
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
