"""CIFAR-10's two published forms, on small files in their layout."""

import pickle

import numpy as np
import pytest

from missing_bits.data import cifar10
from missing_bits.errors import UserError

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
RNG = np.random.default_rng(0)
ROWS = {name: RNG.integers(0, 256, (4, 3072), np.uint8) for name in NAMES}
LABELS = {name: RNG.integers(0, 10, 4) for name in NAMES}


def write(folder, python: bool):
    folder.mkdir(parents=True)
    for name in NAMES:
        if python:
            batch = {
                b"data": ROWS[name],
                b"labels": LABELS[name].tolist(),
                b"filenames": [b"a.png"] * 4,
            }
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        else:
            rows = np.concatenate([LABELS[name].astype(np.uint8)[:, None], ROWS[name]], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder


def check(found):
    assert found.train.images.shape == (20, 32, 32, 3)
    assert found.test.images.shape == (4, 32, 32, 3)
    # A row holds 1,024 red values, row by row, then green, then blue.
    assert found.train.images[5, 2, 3].tolist() == [
        ROWS["data_batch_2"][1, 1024 * c + 32 * 2 + 3] for c in range(3)
    ]
    assert found.train.labels.tolist() == [label for name in NAMES[:5] for label in LABELS[name]]
    assert found.test.labels.dtype == np.int32


@pytest.mark.parametrize("python", [True, False])
def test_both_forms_in_all_places(tmp_path, monkeypatch, python):
    name = cifar10.PYTHON if python else cifar10.BINARY
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    check(cifar10.load(str(write(tmp_path / name, python).parent)))
    check(cifar10.load(str(tmp_path / name)))
    with pytest.raises(UserError, match=r"CIFAR-10 is not in .*cache.*--data-dir.*cifar-10-binary"):
        cifar10.load()
    write(tmp_path / "cache" / "missing_bits" / "cifar10" / name, python)
    check(cifar10.load())


def test_forms_agree(tmp_path):
    folders = [write(tmp_path / str(python), python) for python in (True, False)]
    assert len({cifar10.load(str(folder)).digest for folder in folders}) == 1


@pytest.mark.parametrize("python", [True, False])
def test_damaged_files(tmp_path, python):
    folder = write(tmp_path / "x", python)
    path = folder / f"data_batch_3{'' if python else '.bin'}"
    content = path.read_bytes()
    for bad in (content[:-5], b"", b"junk"):
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"data_batch_3.* is damaged"):
            cifar10.load(str(folder))
    path.unlink()
    with pytest.raises(UserError, match=r"data_batch_3.* cannot be read: No such file"):
        cifar10.load(str(folder))


def test_wrong_content(tmp_path):
    folder = write(tmp_path / "bin", False)
    path = folder / "test_batch.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])  # label 10
    with pytest.raises(UserError, match="labels 0 to 9"):
        cifar10.load(str(folder))
    folder = write(tmp_path / "py", True)
    (folder / "test_batch").write_bytes(
        pickle.dumps({b"data": ROWS["test_batch"], b"labels": [0, 1]}, protocol=2)
    )
    with pytest.raises(UserError, match="does not hold images"):
        cifar10.load(str(folder))


class Evil:
    def __reduce__(self):
        return pytest.fail, ("a pickle ran code",)


def test_a_pickle_runs_no_code(tmp_path):
    folder = write(tmp_path / "py", True)
    (folder / "data_batch_1").write_bytes(
        pickle.dumps({b"data": Evil(), b"labels": []}, protocol=2)
    )
    with pytest.raises(UserError, match="it asks for"):
        cifar10.load(str(folder))
