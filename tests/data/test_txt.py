"""Text of one's own, and the option --data where it names text."""

import pathlib

import pytest

from missing_bits import memory
from missing_bits.data import txt
from missing_bits.data.images import ImageSet
from missing_bits.data.load import Images, is_text, load_text
from missing_bits.errors import UserError

PROSE = "".join(f"This is line {i} of a text.\n" for i in range(40))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def documents(corpus):
    return sorted((*corpus.train, *corpus.validation, *corpus.test))


def whole(corpus):
    """The text of a corpus of one document, put together from its pieces."""
    return "".join(
        text
        for _, text, _ in sorted(
            documents(corpus), key=lambda d: int(d.name.partition("#")[2] or 1)
        )
    )


def test_one_file_of_any_ending(tmp_path):
    write(tmp_path / "novel.text", "é" + PROSE)
    corpus = txt.load(tmp_path / "novel.text")
    assert whole(corpus) == "é" + PROSE
    assert corpus.train[0].name == "novel.text"
    assert corpus.classes == ()


def test_marks_and_ends_of_lines_of_other_systems_change_nothing(tmp_path):
    for name, content in {
        "unix": PROSE.encode(),
        "windows": b"\xef\xbb\xbf" + PROSE.replace("\n", "\r\n").encode(),
        "mac": PROSE.replace("\n", "\r").encode(),
    }.items():
        write(tmp_path / name / "a.txt", content)
    digests = {txt.load(tmp_path / name / "a.txt").digest for name in ("unix", "windows", "mac")}
    assert len(digests) == 1


def fill(folder):
    """Six files of text and six of none."""
    for i, name in enumerate(["a.txt", "b.MD", "c.rst", "d.py", "cat/e.txt", "cat/deep/f.txt"]):
        write(folder / name, f"{i} {PROSE}")
    for name in ["g.csv", ".h.txt", ".git/i.txt", "cat/.j.txt", "cat/.k/l.txt", "m"]:
        write(folder / name, b"\xff")


def test_files_of_a_folder_without_classes(tmp_path):
    fill(tmp_path)
    corpus = txt.load(tmp_path)
    names = {document.name.partition("#")[0] for document in documents(corpus)}
    assert names == {"a.txt", "b.MD", "c.rst", "d.py", "cat/e.txt", "cat/deep/f.txt"}
    assert corpus.classes == ()  # cat alone is no class
    assert {document.label for document in documents(corpus)} == {""}


def test_subfolders_are_classes(tmp_path):
    fill(tmp_path)
    for name in ["cat/n.txt", "dog/1.txt", "dog/2.txt", "dog/cat/3.txt"]:
        write(tmp_path / name, f"{name} {PROSE}")
    write(tmp_path / "empty" / "blank.txt", " \n")
    corpus = txt.load(tmp_path)
    assert corpus.classes == ("cat", "dog")
    labels = {document.name: document.label for document in documents(corpus)}
    assert labels == {
        **dict.fromkeys(["a.txt", "b.MD", "c.rst", "d.py"], ""),
        **dict.fromkeys(["cat/e.txt", "cat/deep/f.txt", "cat/n.txt"], "cat"),
        **dict.fromkeys(["dog/1.txt", "dog/2.txt", "dog/cat/3.txt"], "dog"),
    }


@pytest.mark.parametrize(
    ("files", "named", "message"),
    [
        ({}, "no", "There is no file or folder .*no; expected a UTF-8 text file or a folder"),
        (
            {"a.csv": PROSE},
            "",
            r"holds no text files; expected some ending in \.txt, \.md, \.rst, \.py, at any depth",
        ),
        (
            {"a.txt": b"ab\xe9t\xe9"},
            "a.txt",
            "a.txt is not UTF-8: byte 2 is 0xe9; .*iconv -f LATIN1",
        ),
        ({"a.txt": b"\xef\xbb\xbf\xe9"}, "", "a.txt is not UTF-8: byte 3 is 0xe9"),
        ({"a.txt": "\n \n"}, "a.txt", "a.txt holds no text: it is empty or blank"),
        ({"a.txt": "", "b/c.txt": ""}, "", "holds no text: it is empty or blank"),
        ({"a.txt": "short"}, "a.txt", "The text has 5 characters; give at least 40"),
        ({"a.txt": PROSE + "\0"}, "a.txt", r"it holds 1 NUL bytes, .*iconv -f UTF-16LE.*tr -d"),
        ({"a.txt": bytes(range(256))}, "a.txt", "a.txt is no plain text: it holds 1 NUL bytes"),
        (
            {"a.txt": PROSE.encode("utf-16-le")},
            "",
            "a.txt is no plain text: it holds 1,0.. NUL bytes",
        ),
        ({"a.txt": b"\xff\xfe\x00"}, "", "a.txt is not UTF-16"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, files, named, message):
    for name, text in files.items():
        write(tmp_path / name, text)
    with pytest.raises(UserError, match=message) as caught:
        txt.load(tmp_path / named)
    assert "\n" not in str(caught.value)


def said_of(path, capfd):
    """The corpus, and the line that is said of it."""
    capfd.readouterr()
    corpus = txt.load(path)
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    return corpus, line


def test_classes_of_few_documents_are_none(tmp_path, capfd):
    """Two of each could not be tested: the text is there all the same, without classes."""
    for i in range(2):
        for name in ("cat", "dog"):
            write(tmp_path / name / f"{i}.txt", f"{name} {i} {PROSE}")
    corpus, line = said_of(tmp_path, capfd)
    assert corpus.classes == ()
    assert len(documents(corpus)) >= 4
    assert "no classes; not classes, as two need at least 3 documents each" in line
    for name in ("cat", "dog"):
        write(tmp_path / name / "2.txt", f"{name} 2 {PROSE}")
    write(tmp_path / "eel" / "0.txt", f"eel {PROSE}")
    corpus, line = said_of(tmp_path, capfd)
    assert corpus.classes == ("cat", "dog")
    assert [d.label for d in documents(corpus) if d.name == "eel/0.txt"] == [""]
    assert "2 classes (cat, dog); not classes, " in line
    assert line.endswith(": eel.\n")


def test_text_that_is_left_out_is_counted(tmp_path, capfd):
    """A paragraph of 48 characters and the blank line behind it, four times more than once."""
    paragraph = "This paragraph is one of forty characters or so.\n\n"
    write(tmp_path / "a.txt", paragraph * 5 + PROSE)
    corpus, line = said_of(tmp_path / "a.txt", capfd)
    assert whole(corpus) == paragraph + PROSE
    assert f"left out: 200 of {len(PROSE) + 250:,} characters, paragraphs that had come" in line
    write(tmp_path / "b.txt", " ")
    assert "empty: 1 file." in said_of(tmp_path, capfd)[1]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere" / "a.txt", PROSE)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "texts")
    corpus = txt.load(tmp_path / "texts")
    assert {d.name.partition("#")[0] for d in documents(corpus)} == {"linked/a.txt"}
    assert whole(corpus) == PROSE


def test_marked_utf_16_is_text(tmp_path):
    write(tmp_path / "a.txt", ("é" + PROSE).encode("utf-16"))
    assert whole(txt.load(tmp_path / "a.txt")) == "é" + PROSE


def test_more_than_memory_holds_is_refused(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", PROSE)
    monkeypatch.setattr(memory, "available", lambda: len(PROSE))
    with pytest.raises(
        UserError, match=r"Reading .*a.txt needs .* of memory, and .* are available"
    ):
        txt.load(tmp_path / "a.txt")


def test_what_is_no_file_is_not_read():
    """It would never end."""
    with pytest.raises(UserError, match="There is no file or folder /dev/zero"):
        txt.load(pathlib.Path("/dev/zero"))


def test_the_end_of_a_folder_is_not_held_out(tmp_path):
    write(tmp_path / "texts" / "a.txt", PROSE)
    with pytest.raises(
        UserError, match="--split=end holds out the last tenth of a single file, but"
    ):
        txt.load(tmp_path / "texts", "end")
    write(tmp_path / "b.txt", "too short")
    with pytest.raises(UserError, match="The text has 9 characters; give at least 40"):
        txt.load(tmp_path / "b.txt", "end")


def test_text_comes_through_the_door(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a:b.txt", PROSE)
    assert whole(load_text("txt:~/a:b.txt")) == PROSE
    assert "if_stmt" in "".join(document.text for document in documents(load_text("topics")))


def test_what_is_text_goes_by_the_name():
    assert all(map(is_text, ("topics", "stdlib", "txt:x", "txt")))
    assert not any(map(is_text, ("photos", "npz:txt", "topic", "")))


def load_images(data: str) -> ImageSet:
    return Images(data).load()


@pytest.mark.parametrize(
    ("door", "data", "message"),
    [
        (
            load_text,
            "photos",
            "--data=photos is a set of images; here it must be text: topics, stdlib, txt:PATH",
        ),
        (load_text, "folder:x", "--data=folder:x is a set of images"),
        (
            load_text,
            "topic",
            r"--data=topic is not text. Did you mean topics\? It may be topics, stdlib, txt:PATH",
        ),
        (load_text, "txt", r"Did you mean txt:PATH\?"),
        (load_text, "stdlib:x", r"Did you mean stdlib\?"),
        (load_text, "txt:", "--data=txt: names no path; write txt:PATH"),
        (load_text, "", "is not text"),
        (
            load_images,
            "topics",
            "--data=topics is text, not a set of images; it may be photos, digits",
        ),
        (load_images, "txt:x", "--data=txt:x is text, not a set of images"),
    ],
)
def test_the_door_tells_text_from_images(door, data, message):
    with pytest.raises(UserError, match=message) as caught:
        door(data)
    assert "\n" not in str(caught.value)
