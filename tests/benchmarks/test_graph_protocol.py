"""The protocol of Errica et al. 2020: what chooses a setting, what is tested, what is run again."""

import importlib
import json

import pytest

from missing_bits import options


@pytest.fixture(scope="module")
def protocol(root):
    """The module `benchmarks/graph_protocol.py`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "benchmarks")
        yield importlib.import_module("graph_protocol")


@pytest.fixture
def trained(protocol, monkeypatch):
    """Runs that are not made: two settings are as accurate, the worst of all tests best."""
    calls = []

    def come_to(found, configs, seeds):
        calls.append((found, configs, seeds))
        runs = []
        for config, seed in zip(configs, seeds, strict=True):
            width = options.value(config, "width")
            rate = config.optimizer.learning_rate
            accuracy = {16: 0.8, 32: 0.9}[width] - (0.1 if rate == 1e-3 else 0)
            loss = 1 / options.value(config, "layers")
            runs.append(protocol.Kept(accuracy, loss, 1.0 if width == 16 else 0.5 + seed / 10))
        return runs

    monkeypatch.setattr(protocol, "trained", come_to)
    return calls


def test_held_out_graphs_choose_and_three_more_runs_are_tested(protocol, trained):
    fixed = protocol.settings("blind", "cycles", "", 0)
    found = protocol.run_fold(fixed, protocol.SHAPES)
    assert found["chosen"] == {"width": 32, "layers": 4, "learning_rate": 1e-2}
    assert found["validation"] == 0.9
    assert found["test"] == pytest.approx([0.6, 0.7, 0.8])
    assert [seeds for _, _, seeds in trained] == [[0, 0]] * 4 + [[1, 2, 3]]
    graphs = trained[0][0]
    assert not graphs.per_graph
    assert graphs.num_nodes == 60
    assert len(graphs.senders) == 0
    assert graphs.nodes[:, 0].tolist() == [1.0] * 60  # six nodes of 1 in each graph, all of a size


def test_folds_that_are_there_are_not_run_again(protocol, trained, tmp_path, monkeypatch, capsys):
    file = tmp_path / "protocol.jsonl"
    monkeypatch.setattr("sys.argv", ["graph_protocol.py", "--quick", f"--out={file}"])
    protocol.main()
    first = capsys.readouterr().out
    lines = file.read_text().splitlines()
    assert [json.loads(line)["network"] for line in lines] == ["gin", "blind"]
    assert "| cycles | gin | 1 | 100.0 |" in first
    made = len(trained)
    file.write_text(lines[1] + "\n")
    protocol.main()
    assert len(trained) == made * 3 // 2, "one of two networks is run again"
    assert file.read_text().splitlines()[0] == lines[1]
    monkeypatch.setitem(protocol.SIZES, "cycles", protocol.Sizes(30, 8))
    protocol.main()
    assert len(trained) == made * 2, "other updates of GIN are another protocol, of the MLP none"
