"""What is kept of a corpus, and how it is divided."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missing_bits.data.documents import Document, dedupe, split_blocks, split_documents
from missing_bits.errors import UserError

A, B = "a" * 40, "b " * 20 + "b"  # just long enough
TENTHS = [
    Document(f"{label}{i}", f"{label}{i} {'x' * 96}\n", label)
    for label in ("p", "q")
    for i in range(20)
]


def splits(corpus):
    return corpus.train, corpus.validation, corpus.test


def texts(documents):
    return [document.text for document in documents]


def test_a_long_paragraph_stays_where_it_comes_first():
    documents = [
        Document("1", f"short\n\n{A}\n\n\n  {B}\n\nshort\n\n{A}\n", ""),
        Document("2", f"\n{B.replace('b ', 'b  ')}\n \nnew\n", ""),
        Document("3", f"{A}\n\n{B}", ""),  # nothing of its own
        Document("4", " \n\n\t", ""),
        Document("5", A[:39] + "\n\n" + A[:39], "label"),  # 39 characters may come twice
    ]
    assert dedupe(documents) == [
        Document("1", f"short\n\n{A}\n\n\n  {B}\n\nshort\n\n", ""),
        Document("2", "new\n", ""),
        documents[4],
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=5))
def test_dedupe_keeps_every_paragraph_once_and_in_order(contents):
    """Paragraphs 0 to 4 are short, 5 to 9 long."""
    words = [str(number) * (4 if number < 5 else 44) for number in range(10)]
    documents = [
        Document("", "\n\n".join(words[number] for number in numbers), "") for numbers in contents
    ]
    everything = [number for numbers in contents for number in numbers]
    expected = [n for place, n in enumerate(everything) if n < 5 or n not in everything[:place]]
    kept = dedupe(documents)
    assert "\n".join(texts(kept)).split() == [words[number] for number in expected]
    assert dedupe(kept) == kept


def test_blocks_by_hand():
    """400 lines of 10 characters: a block is 10 lines.

    The fifth of ten blocks is for validation, the tenth to test.
    """
    lines = [f"line {i:04}\n" for i in range(400)]
    corpus = split_blocks(
        [Document("a", "".join(lines[:45]), ""), Document("b", "".join(lines[45:]), "")]
    )
    assert corpus.classes == ()
    assert "".join(texts(corpus.validation)) == "".join(
        lines[i] for i in range(400) if i // 10 % 10 == 4
    )
    assert "".join(texts(corpus.test)) == "".join(lines[i] for i in range(400) if i // 10 % 10 == 9)
    assert "".join(texts(corpus.train)) == "".join(
        lines[i] for i in range(400) if i // 10 % 10 not in (4, 9)
    )
    assert [document.name for document in corpus.train] == [
        "a",
        *(f"b#{i}" for i in range(2, 15, 2)),
    ]
    assert [document.name for document in corpus.validation] == ["a#2", "b", "b#5", "b#9", "b#13"]
    assert [document.name for document in corpus.test] == ["b#3", "b#7", "b#11", "b#15"]
    assert corpus.train[0].text == "".join(lines[:40])
    assert corpus.validation[1].text == "".join(lines[45:50])


def test_documents_are_cut_at_the_nearest_ends_of_lines():
    lines = [str(i) * (i % 7 + 1) + "\n" for i in range(2000)]
    corpus = split_blocks([Document("a", "".join(lines), "")])
    block = len("".join(lines)) / 40
    end = 0
    for split, number in [
        (corpus.train, 4),
        (corpus.validation, 5),
        (corpus.train, 9),
        (corpus.test, 10),
    ]:
        text = split[number // 9 if split is corpus.train else 0].text
        assert "".join(lines)[end:].startswith(text)
        assert text.endswith("\n")
        end += len(text)
        assert abs(end - number * block) <= max(map(len, lines)) / 2 + 1


def test_a_line_longer_than_a_block_is_cut():
    """Of 400 characters a block is 10."""
    line = "".join(chr(256 + i) for i in range(400))
    corpus = split_blocks([Document("a", line, "")])
    assert texts(corpus.validation) == [line[i : i + 10] for i in range(40, 400, 100)]
    assert texts(corpus.test) == [line[i : i + 10] for i in range(90, 400, 100)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=40), min_size=1, max_size=6),
    st.booleans(),
)
def test_blocks_lose_and_double_nothing(contents, ended):
    numbered = [
        "\n".join(f"{place}.{i}" + "x" * length for i, length in enumerate(lengths)) + "\n" * ended
        for place, lengths in enumerate(contents)
    ]
    documents = [Document(str(place), text, "") for place, text in enumerate(numbered)]
    total = len("".join(numbered))
    if total < 40:
        with pytest.raises(UserError, match=f"has {total} characters; give at least 40"):
            split_blocks(documents)
        return
    pieces = [document for split in splits(split_blocks(documents)) for document in split]
    for document in documents:
        mine = {
            name.partition("#")[2]: text
            for name, text, _ in pieces
            if name.partition("#")[0] == document.name
        }
        order = ["", *(str(number) for number in range(2, len(mine) + 1))]
        assert "".join(mine[number] for number in order) == document.text
    assert all(split and all(texts(split)) for split in splits(split_blocks(documents)))


def test_classes_are_split_by_tenths_of_whole_documents():
    """Of 20 documents of equal length in a class, two are a tenth."""
    corpus = split_documents(TENTHS)
    assert corpus.classes == ("p", "q")
    assert sorted(document for split in splits(corpus) for document in split) == sorted(TENTHS)
    for split, count in zip(splits(corpus), (16, 2, 2), strict=True):
        assert [document.label for document in split] == ["p"] * count + ["q"] * count
    assert {document.name for document in corpus.test} != {
        "p0",
        "p1",
        "q0",
        "q1",
    }  # an order at random


def test_a_class_is_split_the_same_without_the_others():
    alone = split_documents(TENTHS[20:])
    together = split_documents(TENTHS)
    for one, other in zip(splits(alone), splits(together), strict=True):
        assert list(one) == [document for document in other if document.label == "q"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=3, max_size=30))
def test_a_class_is_tested_on_a_tenth_of_its_documents_and_at_least_one(lengths):
    documents = [
        Document(str(i), f"{i:03}" + "x" * length, "c") for i, length in enumerate(lengths)
    ]
    corpus = split_documents(documents)
    assert len(corpus.validation) == len(corpus.test) == max(1, round(len(lengths) / 10))
    assert sorted(document for split in splits(corpus) for document in split) == sorted(documents)


def test_of_many_splits_that_near_to_a_tenth_of_the_characters_counts():
    """100 + 100 + 300 + 250 + 250 = 1,000."""
    lengths = [300, 100, 250, 100, 250]
    corpus = split_documents(
        Document(str(i), str(i) * length, "c") for i, length in enumerate(lengths)
    )
    assert {corpus.validation[0].name, corpus.test[0].name} == {"1", "3"}


def test_documents_without_a_label_are_one_more_group():
    unlabeled = [document._replace(label="") for document in TENTHS[:20]]
    corpus = split_documents([*TENTHS[20:], *unlabeled])
    assert corpus.classes == ("q",)
    assert [sum(not document.label for document in split) for split in splits(corpus)] == [16, 2, 2]
    few = split_documents([*TENTHS[20:], *unlabeled[:2]])
    assert [sum(not document.label for document in split) for split in splits(few)] == [2, 0, 0]


def test_a_class_of_two_is_a_mistake_also_where_a_third_says_nothing_new():
    documents = [*TENTHS[:2], TENTHS[1]._replace(name="again"), *TENTHS[20:]]
    with pytest.raises(
        UserError,
        match="Class 'p' has too few documents with text of their own: 2; give at least 3",
    ):
        split_documents(documents)


def test_a_class_that_is_a_copy_of_another_is_a_mistake():
    copies = [document._replace(label="r") for document in TENTHS[:20]]
    with pytest.raises(
        UserError, match="Class 'r' has too few documents with text of their own: 0"
    ):
        split_documents([*TENTHS, *copies])


def test_the_digest_tells_names_texts_labels_and_splits_apart():
    def digests(change):
        documents = list(TENTHS)
        documents[7] = documents[7]._replace(**change)
        return split_documents(documents).digest

    changes = [{}, {"name": "other"}, {"text": TENTHS[7].text.upper()}, {"label": "q"}]
    found = [digests(change) for change in changes]
    unlabeled = [document._replace(label="") for document in TENTHS]
    found += [split_blocks(unlabeled).digest, split_documents(unlabeled).digest]
    assert len(set(found)) == len(found)
    assert split_documents(TENTHS).digest == found[0]
