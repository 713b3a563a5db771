"""Series from images, speech and files of one's own; one clear line for each that makes no sense."""

import numpy as np
import pytest

from missing_bits.data import spoken_digits
from missing_bits.data.series import Task, forecasts
from missing_bits.errors import UserError


def refusal(call):
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_rows_and_pixels_of_digits():
    rows = Task("digits_rows").load()
    pixels = Task("digits_pixels").load()
    permuted = Task("digits_pixels", permuted=True).load()
    assert rows.train.inputs.shape == (1_297, 8, 8)
    assert rows.test.inputs.shape == (500, 8, 8)
    assert pixels.train.inputs.shape == (1_297, 64, 1)
    np.testing.assert_array_equal(pixels.train.inputs[3].ravel(), rows.train.inputs[3].ravel())
    assert (permuted.train.inputs[3] != pixels.train.inputs[3]).any()
    order = [np.flatnonzero((pixels.train.inputs == column[:, None]).all(axis=(0, 2)))
             for column in permuted.train.inputs.transpose(1, 0, 2)]  # fmt: skip
    assert all(len(places) for places in order), "a column is no other's"
    assert pixels.digest != permuted.digest


def test_forecasts_come_horizon_steps_later():
    """Of 0, 1, ... 99: series of 4 steps, 3 ahead, the last 20 steps to test on."""
    found = forecasts(np.arange(100, dtype=np.float32)[:, None], 4, 3, "csv:x")
    assert found.train.inputs.shape == (80 - 7 + 1, 4, 1)
    step = found.train.inputs[0, 1] - found.train.inputs[0, 0]
    for part in (found.train, found.test):
        np.testing.assert_allclose(
            part.targets - part.inputs, np.broadcast_to(3 * step, part.inputs.shape), rtol=1e-4
        )
    assert found.test.inputs.shape == (4, 4, 1)  # from 80, 84, 88, 92
    border = found.train.targets.max()
    assert (found.test.inputs > border).all(), "a test step is an answer of training"


def test_a_table_of_steps_and_one_of_series(tmp_path):
    steps = tmp_path / "steps.csv"
    steps.write_text("a,b\n" + "\n".join(f"{t},{t % 7}" for t in range(60)))
    found = Task(f"csv:{steps}", length=8).load()
    assert found.train.inputs.shape[1:] == (8, 2)
    assert found.classes == ()
    series = tmp_path / "series.csv"
    lines = [f"{kind},{n},{n + 1},{n + 2}" for n in range(10) for kind in ("up", "down")]
    series.write_text("label,t0,t1,t2\n" + "\n".join(lines))
    found = Task(f"csv:{series}").load()
    assert found.classes == ("down", "up")
    assert found.train.inputs.shape == (16, 3, 1)
    assert np.bincount(found.test.targets).tolist() == [2, 2]


def test_arrays(tmp_path):
    path = tmp_path / "series.npz"
    rng = np.random.default_rng(0)
    np.savez(path, series=rng.normal(3, 5, (20, 7, 2)), labels=np.arange(20) % 2)
    found = Task(f"npz:{path}").load()
    assert found.train.inputs.shape == (16, 7, 2)
    assert found.train.inputs.mean(axis=(0, 1)) == pytest.approx([0, 0], abs=1e-5)
    np.savez(path, series=rng.normal(size=100))
    assert Task(f"npz:{path}", length=5).load().train.inputs.shape[1:] == (5, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3,\n", 'line 3, "b" is empty: series have no gaps'),
        ("a,b\n1,2\n3,tall\n", 'line 3, "b" holds "tall", no number'),
        ("a,b\n1,1_0\n", 'line 2, "b" holds "1_0", no number'),
        ("a,b\n1,nan\n", 'line 2, "b" holds nan: series have no gaps'),
        ("a,b\n1,2,3\n", "line 2: 3 cells for 2 columns"),
        ("a\n1\n\n3\n\n", "line 3: 0 cells for 1 column."),
        ("a;b\n1;2\n", "parts its columns by ';'"),
        ("1.5,2\n3,4\n", "begins with numbers (1.5, 2); its first line must name the columns"),
        ("a\n" + 200 * "1e300\n2e300\n", "holds numbers beyond 1e+30"),
        ("label,a\nx,1\n,2\n", "line 3: the label is empty"),
        ("label\nx\ny\n", "its series have no steps"),
        ("a,b\n", "no rows below the names"),
        ("a\n1\n2\n", "has 2 steps, of which the last 0 are to test on"),
        ("label,a\nx,1\nx,2\n", "has 1 class; expected at least 2"),
        ("label,a\nx,1\ny,2\n", "has 1 series of class x; expected at least 5"),
    ],
)
def test_tables_that_make_no_sense(tmp_path, text, words):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    assert words in refusal(Task(f"csv:{path}").load)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros(3)}, "holds x; expected series"),
        ({"series": np.array([1.0, np.nan])}, "hold gaps"),
        ({"series": np.zeros((2, 2, 2))}, "series are float64 of shape (2, 2, 2)"),
        (
            {"series": np.zeros((4, 2)), "labels": np.zeros(3)},
            "labels are of shape (3,); expected [4]",
        ),
        ({"series": np.array(["a"])}, "expected numbers"),
        ({"series": np.zeros((4, 0)), "labels": np.zeros(4)}, "its series have no steps"),
        ({"series": np.zeros((2, 1)), "labels": np.array([1, np.nan])}, "some labels are NaN"),
        ({"series": np.array([{}])}, "Python objects, which are never read"),
    ],
)
def test_arrays_that_make_no_sense(tmp_path, arrays, words):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    assert words in refusal(Task(f"npz:{path}").load)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Task("digits"), "--task=digits is none of digits_rows"),
        (Task("copying", permuted=True), "--permuted is for digits_pixels"),
        (Task("digits_rows", length=5), "--length=5 is for tasks that are generated"),
        (Task("selective_copying", length=15), "it must be at least 16"),
        (Task("adding", length=-1), "it must be at least 2"),
        (Task("copying", horizon=2), "--horizon is for forecasts"),
        (Task("copying", data_dir="x"), "--data-dir is for fashion and speech"),
    ],
)
def test_options_that_do_not_fit(task, words):
    assert words in refusal(lambda: task.check(""))


def test_small_steps_of_large_numbers_are_kept(tmp_path):
    """Seconds since 1970, which are 128 apart in float32; and a feature that is always the same."""
    rng = np.random.default_rng(0)
    steps = rng.normal(size=500)
    series = np.stack([1.6e9 + steps, np.full(500, 0.1)], axis=1)
    np.savez(tmp_path / "times.npz", series=series)
    found = Task(f"npz:{tmp_path / 'times.npz'}", length=400 // 5).load()
    known = steps[:400]
    mine = found.train.inputs[0, :, 0]
    np.testing.assert_allclose(mine, (steps[:80] - known.mean()) / known.std(), atol=1e-4)
    assert np.abs(found.train.inputs[..., 1]).max() < 1e-6


def test_a_table_may_end_in_empty_lines_and_its_columns_be_counted(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("0,1\n" + "1.5,2\n2.5,3\n" * 50 + "\n\n")
    assert Task(f"csv:{path}", length=8).load().train.inputs.shape[1:] == (8, 2)


def test_options_of_forecasts_are_not_for_series_with_labels(tmp_path):
    np.savez(tmp_path / "x.npz", series=np.zeros((20, 7)), labels=np.arange(20) % 2)
    for task in (
        Task(f"npz:{tmp_path / 'x.npz'}", length=5),
        Task(f"npz:{tmp_path / 'x.npz'}", horizon=2),
    ):
        assert "--length and --horizon are for forecasts" in refusal(task.load)


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_a_damaged_file_of_arrays(tmp_path, damage):
    path = tmp_path / "mine.npz"
    np.savez(path, series=np.arange(200.0))
    whole = path.read_bytes()
    damaged = {
        "cut": whole[:500],
        "flipped": whole[:300] + bytes(255 - byte for byte in whole[300:340]) + whole[340:],
        "text": b"series",
        "empty": b"",
    }
    path.write_bytes(damaged[damage])
    assert str(path) in refusal(Task(f"npz:{path}").load)


def test_an_array_alone_is_the_series(tmp_path):
    np.save(tmp_path / "mine.npy", np.arange(200.0))
    assert Task(f"npz:{tmp_path / 'mine.npy'}", length=5).load().train.inputs.shape[1:] == (5, 1)


def test_a_file_that_is_not_there():
    assert "there is no file" in refusal(Task("csv:/nowhere/x.csv").load)


def recorded(folder, **changed):
    """Twelve recordings, of which takes 0 to 4 are to test on."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(500, 9_000, 12)
    arrays = {
        "samples": rng.integers(-9_000, 9_000, lengths.sum()).astype(np.int16),
        "lengths": lengths,
        "digit": np.arange(12) % 10,
        "take": np.arange(12),
    }
    np.savez(folder / spoken_digits.NAME, **{**arrays, **changed})
    return arrays


def test_spoken_digits(tmp_path):
    arrays = recorded(tmp_path)
    found = Task("speech_samples", data_dir=str(tmp_path)).load()
    assert found.test.inputs.shape == (5, 8_000, 1)
    assert found.train.targets.tolist() == [5, 6, 7, 8, 9, 0, 1]
    assert found.test.lengths.tolist() == np.minimum(arrays["lengths"], 8_000)[:5].tolist()
    length = found.test.lengths[0]
    wave = arrays["samples"][: arrays["lengths"][0]][:8_000].astype(float)
    mine = found.test.inputs[0, :length, 0]
    assert np.corrcoef(mine, wave)[0, 1] == pytest.approx(1, abs=1e-6)
    assert (found.test.inputs[0, length:] == 0).all()
    mel = Task("speech", data_dir=str(tmp_path)).load()
    assert mel.test.inputs.shape == (5, 101, 40)


def test_bands_of_a_tone_are_those_of_its_pitch():
    """1,000 Hz are 1,000 mel; of 40 bands from 92 to 2,146 mel, the one in whose middle that lies."""
    seconds = np.arange(8_000) / spoken_digits.RATE
    bands = spoken_digits._log_mel(np.sin(2 * np.pi * 1_000 * seconds).astype(np.float32)[None])
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (60, 4_000))
    expected = round((1_000 - low) / (high - low) * 41) - 1
    assert bands[0, 50].argmax() == expected


def test_speech_that_is_not_there_or_not_what_it_should_be(tmp_path):
    load = Task("speech", data_dir=str(tmp_path)).load
    assert "holds no spoken_digits.npz" in refusal(load)
    recorded(tmp_path, lengths=np.array([3]))
    assert "as many whole numbers" in refusal(load)
    recorded(tmp_path, lengths=np.full(12, -1))
    assert "do not add up" in refusal(load)
    recorded(tmp_path, samples=np.zeros(3))
    assert "its samples are float64" in refusal(load)
    recorded(tmp_path, digit=np.arange(12))
    assert "expected digits from 0 to 9" in refusal(load)
    recorded(tmp_path, take=np.zeros(12, int))
    assert "takes up to 4 and above" in refusal(load)
    np.savez(tmp_path / spoken_digits.NAME, samples=np.zeros(3))
    assert "is not the file of spoken digits: it has no digit, lengths, take" in refusal(load)
    (tmp_path / spoken_digits.NAME).write_bytes(b"PK")
    assert "is not an .npz file" in refusal(load)
