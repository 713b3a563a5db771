"""Options of the run."""

import pytest

from missing_bits import options
from missing_bits.errors import UserError
from missing_bits.loop.config import RunConfig


def test_periods_left_open_are_parts_of_the_budget():
    """1001 / 50 = 20.02, 1001 / 4 = 250.25, each rounded up; a period that is given stays."""
    run = RunConfig(checkpoint_period=7).with_periods(1001, evaluations=4)
    assert (run.log_period, run.eval_period, run.checkpoint_period) == (21, 251, 7)
    tiny = RunConfig().with_periods(3, evaluations=10)
    assert (tiny.log_period, tiny.eval_period, tiny.checkpoint_period) == (1, 1, 1)


def test_the_defaults_are_sound():
    options.check(RunConfig(), "run.")
    options.check(RunConfig(resume=True, dir="somewhere", start="best"), "run.")


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (RunConfig(resume=True), "--run.resume needs --run.dir"),
        (
            RunConfig(dir="somewhere", start="best"),
            "--run.from=best says where to resume; it needs",
        ),
        (RunConfig(num_seeds=0), "--run.num-seeds is 0; it must be at least 1"),
        (RunConfig(log_period=-1), "--run.log-period is -1; it must not be negative"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(run, message):
    with pytest.raises(UserError) as refused:
        options.check(run, "run.")
    assert message in str(refused.value)
