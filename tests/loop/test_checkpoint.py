"""Checkpoints damaged, torn or refused: never wrong arrays, always the newest whole one."""

import errno
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest

from missing_bits.errors import UserError
from missing_bits.loop.checkpoint import Checkpoints, digest


def arrays(update):
    return {"count": np.int32(update), "weights": np.full((40, 30), update, np.float32)}


def save(checkpoints, *updates, headline=None):
    for update in updates:
        checkpoints.save(update, arrays(update), {"seconds": float(update)}, headline)


def latest(folder):
    """Return the update of the newest whole checkpoint, having checked what it holds, or None."""
    checkpoints = Checkpoints(folder)
    found = checkpoints.load("last")
    checkpoints.close()
    return None if found is None else checked(found)


def checked(found):
    """Return the update of a checkpoint that holds what was saved there."""
    count, weights = found.leaves
    assert (count, found.facts["seconds"]) == (found.step, float(found.step))
    np.testing.assert_array_equal(weights, arrays(found.step)["weights"])
    assert (count.dtype, weights.dtype) == (np.int32, np.float32)
    return found.step


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Return a folder in which checkpoints 1, 2 and 3 were saved. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpoints = Checkpoints(folder)
    save(checkpoints, 1, 2, 3, headline=1.0)
    checkpoints.close()
    return folder


def files(checkpoint):
    return sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)


DAMAGE = {
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "emptied": lambda file: os.truncate(file, 0),
    "flipped": flip,
    "deleted": pathlib.Path.unlink,
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.filterwarnings("always:The checkpoint at step 3 is damaged")
def test_any_damaged_file_gives_that_checkpoint_or_the_one_before(how, three, tmp_path, recwarn):
    """Some files do not matter; for those that do, there is a warning, and update 2."""
    fell_back = []
    for file in files(three / "3"):
        if not (three / "3" / file).stat().st_size and how != "deleted":
            continue
        folder = shutil.copytree(
            three, tmp_path / str(len(list(tmp_path.iterdir()))) / "checkpoints"
        )
        DAMAGE[how](folder / "3" / file)
        recwarn.clear()
        found = latest(folder)
        assert found in (2, 3), file
        assert len(recwarn) == (found == 2), file
        if found == 2:
            fell_back.append(str(file))
            assert "one before" in str(recwarn[0].message)
            checkpoints = Checkpoints(folder)
            save(checkpoints, 3)  # the run makes it again, in the same place
            checkpoints.close()
            assert latest(folder) == 3
    assert "facts/metadata" in fell_back
    assert any(file.startswith("arrays/d/") for file in fell_back)


def test_where_all_are_damaged_nothing_is_changed(three, tmp_path):
    """A run that began anew would leave its best chance behind: a copy of a checkpoint."""
    folder = shutil.copytree(three, tmp_path / "checkpoints")
    for checkpoint in folder.iterdir():
        flip(checkpoint / "arrays" / "manifest.ocdbt")
    before = files(tmp_path)
    with pytest.raises(UserError, match=r"None of the 2 checkpoints in .* can be read: .* Nothing"):
        latest(folder)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (MemoryError(), "not enough memory|MemoryError"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files.*ulimit"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
        (ValueError("Error reading: [os_error_code='5' x]"), "Error reading"),
        (ValueError("RESOURCE_EXHAUSTED: Failed to allocate 4 GB"), "RESOURCE_EXHAUSTED"),
    ],
)
def test_where_the_system_refuses_no_checkpoint_is_blamed(
    refusal, told, three, tmp_path, monkeypatch
):
    folder = shutil.copytree(three, tmp_path / "checkpoints")
    before = files(tmp_path)

    def refuse(*_, **__):
        raise refusal

    checkpoints = Checkpoints(folder)
    monkeypatch.setattr(checkpoints._manager, "restore", refuse)
    with pytest.raises(
        UserError, match=rf"step 3 .* cannot be read: ({told}).*Nothing was changed"
    ):
        checkpoints.load("last")
    checkpoints.close()
    assert files(tmp_path) == before


def test_a_damaged_best_is_not_replaced_by_another(three, tmp_path):
    """Nor are the later ones set aside for it."""
    folder = shutil.copytree(three, tmp_path / "checkpoints")
    checkpoints = Checkpoints(folder)
    save(checkpoints, 4, headline=0.5)
    checkpoints.close()
    before = {path.name for path in folder.iterdir()}
    best = max(int(name) for name in before - {"4"})
    flip(folder / str(best) / "arrays" / "manifest.ocdbt")
    checkpoints = Checkpoints(folder)
    with pytest.raises(UserError, match="None of the 1 checkpoints"):
        checkpoints.load("best")
    checkpoints.close()
    assert {path.name for path in folder.iterdir()} == before


def test_contents_that_do_not_match_their_digest_are_damaged(three, tmp_path):
    """The files are whole, but one is another's: nothing but the digest can tell."""
    folder = shutil.copytree(three, tmp_path / "checkpoints")
    shutil.rmtree(folder / "3" / "arrays")
    shutil.copytree(folder / "2" / "arrays", folder / "3" / "arrays")
    with pytest.warns(
        UserWarning, match=r"step 3 is damaged \(its contents do not match its digest\)"
    ):
        assert latest(folder) == 2


def test_what_a_crash_leaves_is_swept_up(three, tmp_path):
    """A save that was cut short is no checkpoint, and is gone when the next one stands in its place."""
    folder = shutil.copytree(three, tmp_path / "checkpoints")
    shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp")
    assert latest(folder) == 3
    assert not list(folder.glob("*tmp*"))
    checkpoints = Checkpoints(folder)
    save(checkpoints, 4)
    checkpoints.close()
    assert latest(folder) == 4


@pytest.mark.filterwarnings("ignore:The checkpoint at step 9 is damaged")
def test_an_empty_numbered_folder_is_not_a_checkpoint(three, tmp_path):
    folder = shutil.copytree(three, tmp_path / "checkpoints")
    (folder / "9").mkdir()
    assert latest(folder) == 3


def test_none_saved_is_none(tmp_path):
    assert latest(tmp_path / "checkpoints") is None


@pytest.mark.parametrize(("larger_is_better", "best"), [(True, 2), (False, 1)])
def test_keeps_the_last_two_and_the_best(larger_is_better, best, tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", larger_is_better)
    for update, headline in [(1, 5.0), (2, 9.0), (3, None), (4, 8.0), (5, None), (6, 7.0)]:
        save(checkpoints, update, headline=headline)
    checkpoints.close()
    assert {int(path.name) for path in (tmp_path / "checkpoints").iterdir()} == {best, 5, 6}


def test_the_best_is_loaded_and_later_ones_are_set_aside(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for update, headline in [(1, 5.0), (2, 9.0), (3, 8.0), (4, None)]:
        save(checkpoints, update, headline=headline)
    assert checked(checkpoints.load("best")) == 2
    assert {path.name for path in (tmp_path / "checkpoints-after-best").iterdir()} == {"3", "4"}
    assert checked(checkpoints.load("last")) == 2
    save(checkpoints, 3, headline=10.0)
    assert checked(checkpoints.load("best")) == 3
    checkpoints.close()


def test_there_is_no_best_where_none_was_evaluated(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 1)
    with pytest.raises(UserError, match=r"--run\.from=best: no checkpoint in .* at an evaluation"):
        checkpoints.load("best")
    checkpoints.close()


def test_best_survives_a_new_session(tmp_path):
    for update, headline in [(1, 5.0), (2, 9.0), (3, 8.0), (4, 7.0), (5, 6.0)]:
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        save(checkpoints, update, headline=headline)
        checkpoints.close()
    assert {int(path.name) for path in (tmp_path / "checkpoints").iterdir()} == {2, 4, 5}


def test_save_returns_the_digest_of_the_arrays(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.save(1, arrays(1), {}, None) == digest([np.int32(1), arrays(1)["weights"]])
    checkpoints.close()


def test_a_refusing_disk_is_the_users_error(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 1)

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)  # which a refused save takes off
        patch.setattr(checkpoints._manager, "save", refuse)
        with pytest.raises(
            UserError, match=r"step 2 could not be written .* No space left on device"
        ):
            save(checkpoints, 2)
    checkpoints.close()
    assert latest(tmp_path / "checkpoints") == 1


def test_an_error_that_is_not_the_disks_is_not_told_as_one(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match="zero size"):  # orbax saves no empty arrays
        checkpoints.save(1, {"empty": np.zeros((0, 3))}, {}, None)
    checkpoints.close()


BASE = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.float32(1)}


@pytest.mark.parametrize(
    "other",
    [
        {**BASE, "b": np.float32(np.nextafter(np.float32(1), np.float32(2)))},
        {**BASE, "b": np.int32(1)},
        {**BASE, "a": BASE["a"].reshape(3, 2)},
        {**BASE, "a": BASE["a"].astype(np.uint32)},
        {"a": BASE["a"], "c": BASE["b"]},
        {"a": BASE["a"]},
    ],
    ids=["one bit", "type", "shape", "sign", "name", "leaf missing"],
)
def test_digest_tells_apart(other):
    assert digest(other) != digest(BASE)
    assert digest({name: np.asfortranarray(value) for name, value in BASE.items()}) == digest(BASE)
