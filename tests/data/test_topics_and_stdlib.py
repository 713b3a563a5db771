"""The corpora that come with Python."""

import re
import sysconfig
from collections import Counter

import pytest

from missing_bits.data import stdlib, topics
from missing_bits.errors import UserError


@pytest.fixture(scope="module")
def corpora():
    """Return both corpora."""
    return {"topics": topics.load(), "stdlib": stdlib.load()}


def splits(corpus):
    return corpus.train, corpus.validation, corpus.test


def characters(documents):
    return sum(len(document.text) for document in documents)


@pytest.mark.parametrize("name", ["topics", "stdlib"])
def test_no_long_paragraph_is_in_two_splits_nor_twice(corpora, name):
    paragraphs = Counter(
        " ".join(paragraph.split())
        for split in splits(corpora[name])
        for document in split
        for paragraph in re.split(r"\n\s*\n", document.text)
    )
    assert sum(paragraphs.values()) > 2000
    assert [text for text, count in paragraphs.items() if count > 1 and len(text) >= 40] == []


@pytest.mark.parametrize(("name", "least"), [("topics", 300_000), ("stdlib", 5_000_000)])
def test_splits_are_about_80_10_and_10_percent(corpora, name, least):
    sizes = [characters(split) for split in splits(corpora[name])]
    assert sum(sizes) > least
    for size, share in zip(sizes, (0.8, 0.1, 0.1), strict=True):
        assert size / sum(sizes) == pytest.approx(share, abs=0.02)


def test_topics_have_no_classes_and_come_in_order(corpora):
    corpus = corpora["topics"]
    assert corpus.classes == ()
    names = [document.name.partition("#")[0] for document in corpus.train]
    assert names == sorted(names)
    assert {"if", "assert"} & {document.name for split in splits(corpus) for document in split}
    assert topics.load().digest == corpus.digest


def test_packages_are_classes_and_are_in_every_split(corpora):
    corpus = corpora["stdlib"]
    assert corpus.classes == stdlib.CLASSES
    for split in splits(corpus):
        assert {document.label for document in split} == {"", *stdlib.CLASSES}
        for name, _, label in split:
            assert label == (
                name.partition("/")[0] if name.partition("/")[0] in stdlib.CLASSES else ""
            )
    names = {document.name for split in splits(corpus) for document in split}
    assert {"json/decoder.py", "asyncio/queues.py", "ast.py"} <= names
    assert not [
        name
        for name in names
        if re.search(r"(^|/)(test|tests|idlelib|encodings)/|_sysconfigdata", name)
    ]


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Stand a folder of our own in for the standard library."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    (tmp_path / "stdlib").mkdir()
    return tmp_path / "stdlib"


def test_what_is_a_module_and_in_what_encoding(library):
    kept = ["alone.py", "http/a.py", "http/b.py", "http/deep/c.py", "json/d.py"]
    left = [
        "http/test/t.py",
        "idlelib/i.py",
        "encodings/e.py",
        "config-3.13-x/c.py",
        "_sysconfigdata_.py",
        "http/x.so",
    ]
    for name in kept + left:
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_bytes(
            b"# -*- coding: latin-1 -*-\r\n'" + name.encode() + b" \xe9'\r\n"
        )
    corpus = stdlib.load()
    documents = sorted(document for split in splits(corpus) for document in split)
    assert [document.name for document in documents] == kept
    assert [document.label for document in documents] == ["", "http", "http", "http", ""]
    assert documents[0].text == "# -*- coding: latin-1 -*-\n'alone.py é'\n"
    assert [len(split) for split in splits(corpus)] == [3, 1, 1]


def test_a_python_without_sources_is_told(library):
    with pytest.raises(
        UserError, match=r"--data=stdlib finds no sources in .*stdlib; use a Python with"
    ):
        stdlib.load()
