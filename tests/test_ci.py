"""What CI trains: one row of each method, so that none reaches main without having run."""

import re

from missing_bits.experiments import EXPERIMENTS


def test_ci_trains_every_method(root):
    trained = re.findall(r'train "\$tmp/dev" .* --exp=(\w+)', (root / ".ci" / "run").read_text())
    assert {EXPERIMENTS[name].where for name in trained} == {
        row.where for row in EXPERIMENTS.values()
    }
