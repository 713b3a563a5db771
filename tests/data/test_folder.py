"""Folders of pictures: which files make which set, how they are decoded, and by whom."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from missing_bits.data import folder
from missing_bits.data.source import BatchSource, Order
from missing_bits.errors import UserError

RED = (200, 10, 20)
GREEN = (20, 200, 10)
BLUE = (10, 20, 200)


def save(path, color, size=(20, 14), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)


@pytest.fixture
def pictures(tmp_path):
    """Ten red and ten blue pictures of all sizes and kinds."""
    for i in range(10):
        save(tmp_path / "red" / f"{i}.jpg", RED, (30 + i, 20), quality=95)
        save(tmp_path / "blue" / "deeper" / f"{i}.PNG", BLUE, (9, 12 + i))
    (tmp_path / "red" / "notes.txt").write_text("not a picture")
    (tmp_path / "red" / "._0.jpg").write_text("what a Mac leaves behind")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def everything(split):
    return split.images[np.arange(split.images.shape[0])]


def test_classes_and_the_fifth_of_each(pictures):
    found = folder.load(pictures, 8)
    assert found.classes == ("blue", "red")
    assert found.train.images.shape == (16, 8, 8, 3)
    assert found.test.images.shape == (4, 8, 8, 3)
    assert found.train.labels.tolist() == [0] * 8 + [1] * 8
    assert found.test.labels.tolist() == [0, 0, 1, 1]
    assert found.train.labels.dtype == np.int32
    for split in (found.train, found.test):
        images = everything(split)
        assert images.dtype == np.uint8
        expected = np.array([BLUE, RED])[split.labels][:, None, None]  # [N, 1, 1, 3]
        assert np.abs(images.astype(int) - expected).max() <= 3  # what JPEG changes


def test_a_file_s_split_does_not_depend_on_the_other_classes(pictures):
    before = set(folder.load(pictures, 8).test.images.paths)
    save(pictures / "green" / "1.png", GREEN)
    save(pictures / "green" / "2.png", GREEN, (9, 9))
    after = set(folder.load(pictures, 8).test.images.paths)
    assert before < after
    assert len(after - before) == 1


@pytest.mark.parametrize(
    ("learned", "name"),
    [
        ("train", "test"),
        ("train", "val"),
        ("Train", "valid"),
        ("TRAINING", "Validation"),
        ("training", "dev"),
        ("train", "TEST"),
        ("train", "testing"),
    ],
)
def test_splits_that_are_there(tmp_path, learned, name):
    for i in range(3):
        save(tmp_path / learned / "red" / f"{i}.bmp", RED)
        save(tmp_path / learned / "blue" / f"{i}.gif", BLUE)
    save(tmp_path / name / "blue" / "0.png", BLUE)
    found = folder.load(tmp_path, 4)
    assert found.classes == ("blue", "red")
    assert (len(found.train.labels), found.test.labels.tolist()) == (6, [0])


def test_pictures_without_classes(tmp_path):
    for i in range(5):
        save(tmp_path / f"{i}.png", RED, (5 + i, 5))
    found = folder.load(tmp_path, 4)
    assert found.classes == ()
    assert found.train.labels is found.test.labels is None
    assert (found.train.images.shape[0], found.test.images.shape[0]) == (4, 1)


def test_the_middle_of_the_resized_picture(tmp_path):
    """12x8 pixels become 6x4, of which columns 1 to 4 are kept: the first is columns 2 and 3."""
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, :2] = 255
    pixels[:, 2:4] = 100
    pixels[:, 10:] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    image = folder.decode(str(tmp_path / "x.png"), 4)
    assert image.shape == (4, 4, 3)
    # A triangle of half-width 2 around the border of columns 2 and 3 has weights 1/8, 3/8, 3/8,
    # 1/8 on columns 1 to 4.
    assert np.abs(image[:, 0].astype(int) - (255 / 8 + 100 * 6 / 8)).max() <= 1
    assert np.abs(image[:, 1].astype(int) - 100 / 8).max() <= 1
    assert (image[:, 2] == 0).all()
    assert np.abs(image[:, 3].astype(int) - 255 / 8).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_picture_becomes_rgb(tmp_path, mode):
    ending = "jpg" if mode == "CMYK" else "png"
    Image.new("RGB", (9, 7), (255, 255, 255)).convert(mode).save(tmp_path / f"x.{ending}")
    image = folder.decode(str(tmp_path / f"x.{ending}"), 5)
    assert image.shape == (5, 5, 3)
    assert image.min() >= 253


def test_transparent_palettes(tmp_path):
    picture = Image.new("RGB", (9, 7), RED).quantize()
    picture.save(tmp_path / "x.png", transparency=bytes([0] * 4))
    assert (
        np.abs(
            folder.decode(str(tmp_path / "x.png"), 5).astype(int) - np.array(RED)[None, None]
        ).max()
        <= 3
    )


def test_undecodable_pictures_are_skipped_and_counted_by_reason(pictures, capfd):
    clean = folder.load(pictures, 8)
    capfd.readouterr()
    whole = (pictures / "red" / "0.jpg").read_bytes()
    (pictures / "red" / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (pictures / "red" / "empty.png").write_bytes(b"")
    png = bytearray((pictures / "blue" / "deeper" / "0.PNG").read_bytes())
    (pictures / "red" / "cut.png").write_bytes(png[:-20])
    png[45] ^= 255
    (pictures / "red" / "changed.png").write_bytes(png)
    (pictures / "red" / "page.gif").write_text("<html>")
    (pictures / "red" / "gone.gif").symlink_to(pictures / "nowhere")
    # PostScript, for which Pillow would start another program, under the name of a picture.
    (pictures / "red" / "printed.jpg").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    )
    deep = Image.fromarray(np.full((5, 5), 60_000, np.uint16))  # 16 bits
    deep.save(pictures / "red" / "deep.png")
    (pictures / "broken").mkdir()
    (pictures / "broken" / "x.jpg").write_bytes(b"x")  # a class of which nothing is left
    found = folder.load(pictures, 8)
    assert found.classes == ("blue", "red")
    assert found.train.labels.tolist() == [0] * 8 + [1] * 8
    assert found.digest == clean.digest
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert (
        "2 classes (blue, red), 16 pictures to train on, 4 to test (a fifth of each class); "
        in said
    )
    assert "skipped 9 pictures: " in said
    for reason in (
        "3 damaged",
        "3 no pictures",
        "1 empty",
        "1 links to nothing",
        "1 not of 8 bits a channel",
    ):
        assert reason in said
    assert "such as broken/x.jpg" in said
    assert "no pictures by their names: 1 (notes.txt)" in said


def test_pictures_of_too_many_pixels_are_skipped_before_they_are_decoded(pictures, capfd):
    """A header is all there is of one: its pixels would take more than 500 MB."""
    save(pictures / "red" / "vast.ppm", RED)
    content = (pictures / "red" / "vast.ppm").read_bytes()
    assert content.startswith(b"P6\n20 14\n")
    for name, side in (("vast", 13_000), ("absurd", 1_000_000)):
        (pictures / "red" / f"{name}.ppm").write_bytes(
            content.replace(b"20 14", f"{side} {side}".encode())
        )
    found = folder.load(pictures, 8)
    assert found.train.images.shape[0] == 16
    assert "skipped 2 pictures: 2 too large" in capfd.readouterr().err


def test_a_file_that_fails_later_is_gray(pictures):
    found = folder.load(pictures, 8)
    before = everything(found.train)
    gone = found.train.images.paths[3]
    gone.unlink()
    with pytest.warns(UserWarning, match=f"{gone.name} cannot be decoded any more"):
        after = everything(found.train)
    assert (after[3] == 128).all()
    assert (np.delete(after, 3, axis=0) == np.delete(before, 3, axis=0)).all()


def test_digest_tells_content_names_and_size_apart(pictures):
    found = [
        folder.load(pictures, 8).digest,
        folder.load(pictures, 8).digest,
        folder.load(pictures, 9).digest,
    ]
    (pictures / "red" / "0.jpg").rename(pictures / "red" / "new.jpg")
    found.append(folder.load(pictures, 8).digest)
    save(pictures / "red" / "new.jpg", GREEN)
    found.append(folder.load(pictures, 8).digest)
    assert found[0] == found[1]
    assert len(set(found)) == 4


def test_mistakes_are_told_in_one_line(tmp_path):
    def message(match):
        with pytest.raises(UserError, match=match) as caught:
            folder.load(tmp_path / "x", 8)
        assert "\n" not in str(caught.value)

    message("There is no folder")
    (tmp_path / "x" / "red").mkdir(parents=True)
    message("holds no pictures")
    (tmp_path / "x" / "red" / "notes.txt").write_text("")
    message("holds no pictures")
    save(tmp_path / "x" / "red" / "0.png", RED)
    message("leaves no picture that can be decoded to test on")
    save(tmp_path / "x" / "red" / "1.png", RED, (9, 9))
    (tmp_path / "x" / "blue").mkdir()
    (tmp_path / "x" / "blue" / "0.png").write_text("damaged")
    message("can be decoded of one class only, 'red'")
    (tmp_path / "x" / "red" / "0.png").write_text("damaged")
    (tmp_path / "x" / "red" / "1.png").write_bytes(b"")
    message(r"to train on \(skipped 3 pictures: 2 no pictures, 1 empty, such as blue/0.png\); give")
    (tmp_path / "x" / "red").rename(tmp_path / "x" / "val")
    (tmp_path / "x" / "blue").rename(tmp_path / "x" / "test")
    message(r"has pictures to test on alone \(test, val\); give them a folder train")
    with pytest.raises(UserError, match="There is no folder"):
        folder.load(tmp_path / "x" / "red" / "1.png", 8)


def labeled(root, count, *classes):
    """So many pictures in a folder of each class, all different."""
    for place, name in enumerate(classes):
        for i in range(count):
            save(root / name / f"{i}.png", (40 * place, i, len(root.name)))


def said_of(root, capfd):
    """The set of a folder, and the line that is said of it."""
    capfd.readouterr()
    found = folder.load(root, 4)
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    return found, line


def test_a_class_of_one_picture_is_told(tmp_path, capfd):
    labeled(tmp_path, 5, "cat", "dog")
    save(tmp_path / "eel" / "0.png", RED)
    found, line = said_of(tmp_path, capfd)
    assert found.classes == ("cat", "dog", "eel")
    assert np.bincount(found.train.labels).tolist() == [4, 4, 1]
    assert "; classes with nothing to test: eel" in line


def test_a_class_that_is_tested_alone_is_told(tmp_path, capfd):
    """As of an npz: a model may well be asked about what it has never met."""
    labeled(tmp_path / "train", 2, "cat", "eel")
    labeled(tmp_path / "test", 1, "cat", "dog", "eel")
    found, line = said_of(tmp_path, capfd)
    assert found.classes == ("cat", "dog", "eel")
    assert found.train.labels.tolist() == [0, 0, 2, 2]
    assert found.test.labels.tolist() == [0, 1, 2]
    assert "; classes with nothing to train on: dog" in line


def test_an_extra_folder_around_all_changes_nothing(tmp_path):
    labeled(tmp_path / "a", 6, "cat", "dog")
    plain = folder.load(tmp_path / "a", 4)
    (tmp_path / "b" / "data").mkdir(parents=True)
    (tmp_path / "a").rename(tmp_path / "b" / "data" / "train")
    (tmp_path / "b" / "__MACOSX" / "data").mkdir(parents=True)
    save(tmp_path / "b" / "__MACOSX" / "data" / "0.png", RED)
    (tmp_path / "b" / ".DS_Store").write_text("")
    wrapped = folder.load(tmp_path / "b", 4)
    assert wrapped.classes == ("cat", "dog")
    assert wrapped.digest == plain.digest


def test_links_are_followed_but_not_in_circles(tmp_path):
    labeled(tmp_path / "elsewhere", 5, "dog")
    labeled(tmp_path / "pets", 5, "cat")
    (tmp_path / "pets" / "dog").symlink_to(tmp_path / "elsewhere" / "dog")
    (tmp_path / "pets" / "cat" / "all").symlink_to(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "itself").symlink_to(tmp_path / "pets" / "cat" / "itself")
    save(tmp_path / "one.png", RED)
    (tmp_path / "pets" / "cat" / "one.png").symlink_to(tmp_path / "one.png")
    os.mkfifo(tmp_path / "pipe")  # whoever opens it waits for ever
    (tmp_path / "pets" / "cat" / "pipe.png").symlink_to(tmp_path / "pipe")
    found = folder.load(tmp_path / "pets", 4)
    assert found.classes == ("cat", "dog")
    assert np.bincount(found.train.labels).tolist() == [5, 4]
    assert np.bincount(found.test.labels).tolist() == [1, 1]


def test_pictures_beside_classes_and_second_splits_are_told(tmp_path, capfd):
    labeled(tmp_path / "x", 5, "cat", "dog")
    save(tmp_path / "x" / "cover.png", RED)
    found, line = said_of(tmp_path / "x", capfd)
    assert found.train.images.shape[0] == 8
    assert "not used: 1 beside the class folders in x (in a folder unlabeled they would be)" in line
    for split in ("train", "val", "test"):
        labeled(tmp_path / "y" / split, 3, "cat", "dog")
    found, line = said_of(tmp_path / "y", capfd)
    assert (len(found.train.labels), len(found.test.labels)) == (6, 6)
    assert "6 to test (those of test); pictures that are not used: 6 in val." in line


def test_one_folder_is_no_class(tmp_path, capfd):
    labeled(tmp_path / "x", 5, "img")
    for split in ("train", "test"):
        labeled(tmp_path / "y" / split, 5, "all")
    for name, count in (("x", 4), ("y", 5)):
        found, line = said_of(tmp_path / name, capfd)
        assert found.classes == ()
        assert found.train.labels is found.test.labels is None
        assert found.train.images.shape[0] == count
        assert "no classes" in line


def test_test_pictures_without_classes_test_no_labels(tmp_path, capfd):
    """As competitions have them: a fifth of those with classes is for testing."""
    labeled(tmp_path / "train", 5, "cat", "dog")
    for i in range(3):
        save(tmp_path / "test" / f"{i}.png", (i, 0, 0))
    found, line = said_of(tmp_path, capfd)
    assert (len(found.train.labels), found.test.labels.tolist()) == (8, [0, 1])
    assert "not used: 3 in test." in line


def test_unlabeled_training_beside_a_labeled_test(tmp_path, capfd):
    """Probes learn from half of each class, and are tested on the other half."""
    for i in range(7):
        save(tmp_path / "train" / f"{i}.png", (i, 0, 0))
    labeled(tmp_path / "test", 4, "cat", "dog")
    found, line = said_of(tmp_path, capfd)
    assert found.classes == ("cat", "dog")
    assert found.train.labels is None
    assert found.train.images.shape[0] == 7
    assert found.labeled is found.probe
    for split in (found.probe, found.test):
        assert split.labels.tolist() == [0, 0, 1, 1]
    assert not {*found.probe.images.paths} & {*found.test.images.paths}
    assert "those to train on have no labels: probes learn from 4 others that have" in line


@pytest.mark.parametrize("given", ["train", "classes"])
def test_unlabeled_pictures_beside_labeled_ones(tmp_path, capfd, given):
    """As STL-10 has them: all are trained on, and probes learn from those with labels."""
    for i in range(7):
        save(tmp_path / "unlabeled" / f"{i}.png", (i, 0, 0))
    if given == "train":
        labeled(tmp_path / "train", 4, "cat", "dog")
        labeled(tmp_path / "test", 1, "cat", "dog")
    else:
        labeled(tmp_path, 5, "cat", "dog")
    found, _ = said_of(tmp_path, capfd)
    assert found.train.labels is None
    assert found.train.images.shape[0] == 15
    assert found.probe.labels.tolist() == [0] * 4 + [1] * 4
    assert found.test.labels.tolist() == [0, 1]


def test_copies_lie_on_one_side(tmp_path, capfd):
    labeled(tmp_path, 5, "cat", "dog")
    for i in range(20):
        save(tmp_path / "dog" / f"copy{i}.png", (40, 0, len(tmp_path.name)))
    found, line = said_of(tmp_path, capfd)
    images = np.concatenate([everything(found.train), everything(found.test)])
    assert len({image.tobytes() for image in images}) == len(images) == 10
    assert "not used: 20 copies of others" in line
    for i in range(4):
        save(tmp_path / "alike" / f"{i}.png", RED)
    found, line = said_of(tmp_path / "alike", capfd)
    assert found.train.images.shape[0] == 3
    assert "; all to train on are the same; 1 of those to test are among those to train" in line


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(tmp_path, orientation):
    """Turned by the tag, all eight show what the first shows: columns beside the square are cut."""
    pixels = np.zeros((8, 14, 3), np.uint8)
    pixels[:4, 3:7] = RED
    pixels[4:, 7:11] = BLUE
    pixels[:4, 7:11] = GREEN
    upright = Image.fromarray(pixels)
    stored = upright
    if orientation > 1:
        undone = folder._TURNS[{6: 8, 8: 6}.get(orientation, orientation)]
        stored = upright.transpose(undone)
    tags = Image.Exif()
    tags[0x0112] = orientation
    stored.save(tmp_path / "x.png", exif=tags.tobytes())
    upright.save(tmp_path / "y.png")
    expected = folder.decode(str(tmp_path / "y.png"), 4)
    assert (folder.decode(str(tmp_path / "x.png"), 4) == expected).all()


def test_batches_are_pure_and_moments_cheap(pictures):
    found = folder.load(pictures, 8)
    assert found.moments()[0] == pytest.approx(np.mean([RED, BLUE], axis=0) / 255, abs=0.01)
    images = everything(found.train)
    source = BatchSource(found.train, [1, 2], 5)
    assert source.inner_steps == 1
    for update in (0, 1, 7, 8, 2):
        batch = source.next(None, update)
        indices = Order(16, [1, 2], 5)(update)
        assert (batch.images == images[indices]).all()
        assert (batch.labels == found.train.labels[indices]).all()
    source.close()


needs_proc = pytest.mark.skipif(
    not pathlib.Path("/proc/self/stat").exists(), reason="looks at processes in /proc"
)
SCRIPT = """
import json, multiprocessing, pathlib, signal, sys, warnings
import numpy as np
from missing_bits.data import folder

if __name__ == "__main__":
    found = folder.load(pathlib.Path(sys.argv[1]), 8)
    before = found.train.images[np.arange(16)]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a run does, which saves before it leaves
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        with warnings.catch_warnings(record=True, action="always") as caught:
            after = found.train.images[np.arange(16)]
        answer = {
            "same": bool((after == before).all()),
            "warnings": [str(warning.message) for warning in caught],
            "workers": [process.pid for process in multiprocessing.active_children()],
        }
        print(json.dumps(answer), flush=True)
"""
KILLED = "A process that decodes pictures was killed, perhaps for lack of memory."


def alive(pid: int) -> bool:
    """Tell whether a process runs (one that has ended but was not waited for does not)."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def process(pictures):
    script = pictures / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script, pictures],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def ask(process) -> dict:
    """Let the process decode its pictures once more; return what it says of them."""
    process.stdin.write("\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def ask_in_peace(process) -> list[int]:
    """Let the process decode its pictures, as nothing is wrong; return its workers."""
    answer = ask(process)
    assert answer["same"]
    assert answer["warnings"] == []
    return answer["workers"]


def settled(pid: int) -> bool:
    """Tell whether a worker has come so far as to ignore SIGTERM."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    ignored = next(line for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(ignored.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def wait_until(condition, workers: list[int]) -> None:
    given_up = time.monotonic() + 60
    while not all(map(condition, workers)):
        assert time.monotonic() < given_up, "nothing happened in 60 s"
        time.sleep(0.02)


def wait_for_the_end_of(workers: list[int]) -> None:
    wait_until(lambda pid: not alive(pid), workers)


def kill_idle(pid: int) -> None:
    """Kill a worker that has nothing to do, and leave all others time to notice."""
    os.kill(pid, signal.SIGKILL)
    wait_for_the_end_of([pid])
    time.sleep(0.3)


def end(process) -> None:
    """Let the process end, and insist that it does so quietly, but for what it said in loading."""
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [line.partition("), ")[2] for line in errors.splitlines()] == [
        "16 pictures to train on, 4 to test (a fifth of each class); files that are no pictures by "
        "their names: 2 (notes.txt, script.py)."
    ]


@needs_proc
def test_workers_outlive_signals_but_not_their_parent(process):
    workers = ask_in_peace(process)
    assert workers
    wait_until(settled, workers)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.killpg(process.pid, number)
        assert ask_in_peace(process) == workers
    assert all(map(alive, workers))
    process.kill()
    wait_for_the_end_of(workers)


@needs_proc
def test_killed_workers_are_replaced(process):
    """Also one that is killed while no pictures are asked for, and is missed only later."""
    workers = ask_in_peace(process)
    kill_idle(workers[0])
    answer = ask(process)
    assert answer["same"]
    assert answer["warnings"] == [KILLED]
    replaced = ask_in_peace(process)
    assert workers[0] not in replaced
    assert set(workers[1:]) < set(replaced)
    assert len(replaced) == len(workers)
    end(process)
    assert not any(map(alive, replaced))


@needs_proc
def test_a_run_ends_though_a_worker_was_killed(process):
    workers = ask_in_peace(process)
    kill_idle(workers[0])
    end(process)
    assert not any(map(alive, workers))


@needs_proc
def test_workers_end_quietly_with_the_run(process):
    workers = ask_in_peace(process)
    end(process)
    assert not any(map(alive, workers))
