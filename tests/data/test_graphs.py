"""Graphs: published files, a user's own, drawn ones; splits; what is refused."""

import pickle

import numpy as np
import pytest
import scipy.sparse

from missing_bits.data import (
    graph_files,
    graphs,
    made_graphs,
    planetoid,
    published,
    superpixels,
    tu,
)
from missing_bits.data.graphs import Data, folds, graph_set, simple
from missing_bits.errors import UserError


def small(**changed):
    """A path of four nodes."""
    settings = {
        "nodes": np.eye(4, dtype=np.float32), "senders": [0, 1, 2], "receivers": [1, 2, 3],
        "labels": [0, 1, 0, 1], "classes": ("a", "b"),
        "train": [0], "validation": [1], "test": [2, 3], "where": "mine", **changed,
    }  # fmt: skip
    nodes, senders, receivers = (settings.pop(name) for name in ("nodes", "senders", "receivers"))
    return graph_set(nodes, senders, receivers, **settings)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"receivers": [1, 2, 4]}, "leads to node 4; there are nodes 0 to 3"),
        ({"senders": [-1, 1, 2]}, "leads to node -1"),
        ({"senders": [], "receivers": []}, "has no edges"),
        ({"graph_of": [0, 0, 0], "labels": [0]}, "features are of 4 nodes, but there are 3"),
        ({"labels": [0, 1]}, "2 labels for 4 nodes"),
        ({"train": [0, 1]}, "splits overlap: number 1 is in two"),
        ({"labels": [0, -1, 0, 1]}, "number 1 is in a split but has no label"),
        ({"test": [9]}, "a split names number 9 of 4"),
        ({"nodes": np.full((4, 1), np.nan)}, "gaps"),
        (
            {"graph_of": [0, 0, 1, 1], "labels": [0, 1], "train": [0], "test": []},
            "from one graph to another",
        ),
    ],
)
def test_what_does_not_fit_is_refused(changed, words):
    with pytest.raises(UserError, match=words):
        small(**changed)


def test_a_graph_is_what_it_was_told_and_its_digest_says_so():
    found = small()
    assert found.num_graphs == 1
    assert not found.per_graph
    assert found.digest == small().digest
    assert found.digest != small(labels=[0, 1, 1, 1]).digest


def test_edges_become_symmetric_single_and_no_loops():
    """0 -> 1 twice and back, 2 -> 2, 3 -> 1."""
    senders, receivers = simple(np.array([0, 0, 1, 2, 3]), np.array([1, 1, 0, 2, 1]), 4)
    found = sorted(zip(senders.tolist(), receivers.tolist(), strict=True))
    assert found == [(0, 1), (1, 0), (1, 3), (3, 1)]
    assert (np.diff(receivers) >= 0).all()


def test_folds_share_out_all_and_are_alike_in_their_classes():
    labels = np.repeat([0, 1], [60, 125])
    parts = [folds(labels, fold) for fold in range(10)]
    assert sorted(np.concatenate([part.test for part in parts]).tolist()) == list(range(185))
    for part in parts:
        assert sorted(np.concatenate(part).tolist()) == list(range(185))
        assert np.sum(labels[part.test] == 0) == 6
        assert len(part.validation) in (16, 17)


def pickled(path, found):
    path.write_bytes(pickle.dumps(found, protocol=3))


@pytest.fixture
def like_cora(tmp_path, monkeypatch):
    """Six papers in Planetoid's format: two told, one more known, tests 5 and 3; 4 is absent."""
    words = scipy.sparse.csr_matrix(np.eye(7, 3, dtype=np.float32) * 2)
    told = np.eye(7, dtype=np.int32)[np.array([0, 1, 2, 3, 4, 5, 6])]
    parts = {
        "x": words[:2], "allx": words[:3], "tx": scipy.sparse.csr_matrix([[0, 0, 4.0], [0, 1, 1]]),
        "y": told[:2], "ally": told[:3], "ty": told[5:7], "graph": {0: [1, 1, 0], 5: [3], 4: []},
    }  # fmt: skip
    for name, part in parts.items():
        pickled(tmp_path / f"ind.cora.{name}", part)
    (tmp_path / "ind.cora.test.index").write_text("5\n3\n")
    sums = {
        path.name: published.hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tmp_path.iterdir()
    }
    monkeypatch.setitem(planetoid.SUMS, "cora", sums)
    monkeypatch.setattr(planetoid, "_VALIDATED", 1)
    return tmp_path


def test_planetoid_is_put_together_as_published(like_cora):
    found = planetoid.load("cora", str(like_cora))
    assert found.nodes.shape == (6, 3)
    assert found.nodes.toarray()[[3, 4, 5]].tolist() == [[0, 0.5, 0.5], [0, 0, 0], [0, 0, 1]]
    assert found.labels.tolist() == [0, 1, 2, 6, -1, 5]
    edges = set(zip(found.senders.tolist(), found.receivers.tolist(), strict=True))
    assert edges == {(0, 1), (1, 0), (5, 3), (3, 5)}
    assert (found.train.tolist(), found.validation.tolist(), found.test.tolist()) == (
        [0, 1],
        [2],
        [3, 5],
    )


def test_a_file_that_is_not_the_published_one_is_not_even_read(like_cora, monkeypatch):
    (like_cora / "ind.cora.y").write_bytes(b"else")
    monkeypatch.setattr(planetoid, "unpickled", lambda content: pytest.fail("was read"))
    with pytest.raises(UserError, match=r"ind\.cora\.y is not the published file"):
        planetoid.load("cora", str(like_cora))


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("found", [Evil(), {1: Evil()}, np.array([Evil()], object)])
def test_a_pickle_runs_nothing(found, capsys):
    with pytest.raises(
        UserError, match=r"not one of Planetoid's: it asks for (builtins|__builtin__)\.print"
    ):
        planetoid.unpickled(pickle.dumps(found, protocol=3))
    assert capsys.readouterr().out == ""


def test_what_is_nowhere_is_said(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="holds no"):
        Data("planetoid:cora", str(tmp_path)).load()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def offline(url):
        raise OSError("no network")

    monkeypatch.setattr(published, "get", offline)
    for data in ("planetoid:citeseer", "tu:MUTAG"):
        with pytest.raises(UserError, match=r"could not be downloaded.*give it as --data-dir"):
            Data(data).load()


def test_a_download_that_is_no_archive_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(published, "get", lambda url: b"<html>Log in to this network</html>")
    with pytest.raises(UserError, match=r"could not be downloaded.*give it as --data-dir"):
        Data("tu:MUTAG").load()


def test_a_download_that_cannot_be_kept_is_used(like_cora, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(
        published, "get", lambda url: (like_cora / url.rpartition("/")[2]).read_bytes()
    )
    assert planetoid.load("cora").digest
    assert "ind.cora.x could not be kept" in capsys.readouterr().err


def test_a_download_is_kept(like_cora, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def get(url):
        asked.append(url)
        return (like_cora / url.rpartition("/")[2]).read_bytes()

    monkeypatch.setattr(published, "get", get)
    first = planetoid.load("cora")
    assert len(asked) == 8
    assert planetoid.load("cora").digest == first.digest
    assert len(asked) == 8


def test_tu_is_put_together_as_published():
    """A triangle and a pair: kinds 0 and 3, classes -1 and 1."""
    texts = {
        "A.txt": b"1, 2\n2, 1\n2, 3\n3, 2\n1, 3\n3, 1\n4, 5\n5, 4\n",
        "graph_indicator.txt": b"1\n1\n1\n2\n2\n", "graph_labels.txt": b"1\n-1\n",
        "node_labels.txt": b"0\n3\n3\n0\n0\n",
    }  # fmt: skip
    found = tu.read("TWO", texts, 0)
    assert found.per_graph
    assert found.nodes.tolist() == [[1, 0], [0, 1], [0, 1], [1, 0], [1, 0]]
    assert found.labels.tolist() == [1, 0]
    assert found.classes == ("-1", "1")
    assert found.graph_of.tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(UserError, match="not in TU's format"):
        tu.read("TWO", {**texts, "node_labels.txt": b"x"}, 0)


def written(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    return folder / "edges.csv"


def test_a_users_graph_is_read(tmp_path):
    path = written(
        tmp_path,
        edges="source,target\nann,bob\nbob,ann\nbob,cy\n",
        features="node,age,size\nbob,1,2\nann,3,4\ncy,5,6\n",
        labels="node,label\nann,x\nbob,y\ncy,x\n",
        splits="node,split\nann,train\nbob,validation\ncy,test\n",
    )
    tables = [tmp_path / f"{name}.csv" for name in ("features", "labels", "splits")]
    found = graph_files.read_edges(path, *tables, False, 0)
    assert found.nodes.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert found.labels.tolist() == [1, 0, 0]
    assert found.classes == ("x", "y")
    assert (found.train.tolist(), found.test.tolist()) == ([1], [2])
    assert len(found.senders) == 4
    alone = graph_files.read_edges(path, None, None, None, True, 0)
    assert alone.nodes.shape == (3, 3)
    assert (alone.senders.tolist(), alone.receivers.tolist()) == ([0, 1, 1], [1, 0, 2])


def test_names_and_labels_may_hold_anything_and_an_empty_label_is_none(tmp_path):
    path = written(
        tmp_path,
        edges='source,target\n"a\nb",c\n"c","x\x0by\u2028z"\n',
        labels='node,label\n"a\nb",one\nc,\n"x\x0by\u2028z",two\n',
    )
    found = graph_files.read_edges(path, None, tmp_path / "labels.csv", None, False, 0)
    assert found.classes == ("one", "two")
    assert sorted(found.labels.tolist()) == [-1, 0, 1]
    assert (found.num_nodes, len(found.senders)) == (3, 4)


def test_features_of_edges_go_both_ways(tmp_path):
    path = written(tmp_path, edges="source,target,weight\n0,1,5\n1,2,7\n")
    found = graph_files.read_edges(path, None, None, None, False, 0)
    assert found.edges[:, 0].tolist() == [5, 7, 5, 7]
    assert found.receivers.tolist() == [1, 2, 0, 1]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"edges": "source,target\n0,7\n"}, r'line 2 names node "7", which does not exist'),
        ({"edges": "from,to\n0,1\n"}, "has no column source; its columns are from, to"),
        ({"edges": "source,target\n"}, "has no rows"),
        ({"features": "node,x\n0,1\n1,a\n"}, r'line 3, "x" holds "a", no number'),
        ({"splits": "node,split\n0,train\n0,test\n"}, "splits overlap: node 0 was in train"),
        ({"splits": "node,split\n0,tests\n"}, 'split "tests" is none of'),
        (
            {"splits": "node,split\n0,train\n", "labels": "node,label\n1,a\n"},
            "line 2: node 0 is in a split but has no label",
        ),
        (
            {"splits": "node,split\n0,train\n", "labels": "node,label\n0,\n1,a\n"},
            "line 2: node 0 is in a split but has no label",
        ),
        ({"labels": "node,label\n0,a\n0,b\n"}, "line 3: node 0 stands twice"),
        ({"edges": "source,target,source\n0,1,1\n"}, "has two columns source"),
        ({"edges": "source,target\n\n\n0,7\n"}, 'line 4 names node "7"'),
        ({"features": "node,x\n0,1\n1,nan\n"}, 'line 3, "x" holds "nan"; expected a finite'),
        ({"features": "node,x\n0,1\n1,1e300\n"}, 'line 3, "x" holds "1e300"; expected a finite'),
    ],
)
def test_a_users_mistakes_are_said(tmp_path, texts, words):
    sound = {
        "edges": "source,target\n0,1\n", "features": "node,x\n0,1\n1,2\n",
        "labels": "node,label\n0,a\n1,b\n", "splits": "node,split\n0,train\n1,test\n",
    }  # fmt: skip
    path = written(tmp_path, **{**sound, **texts})
    tables = [tmp_path / f"{name}.csv" for name in ("features", "labels", "splits")]
    with pytest.raises(UserError, match=words):
        graph_files.read_edges(path, *tables, False, 0)


def test_a_pickle_is_no_table(tmp_path):
    path = tmp_path / "edges.csv"
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match="is a pickle or an archive"):
        Data(f"edges:{path}").load()


GRAPHML = """<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
<key id="d0" for="node" attr.name="label" attr.type="string"/>
<key id="d1" for="node" attr.name="age" attr.type="double"/>
<graph edgedefault="undirected">
<node id="a"><data key="d0">x</data><data key="d1">1.5</data></node>
<node id="b"><data key="d0">y</data><data key="d1">2</data></node>
<node id="c"><data key="d1">3</data></node>
<edge source="a" target="b"/><edge source="b" target="c"/></graph></graphml>"""


def test_graphml_is_read(tmp_path):
    path = tmp_path / "mine.graphml"
    path.write_text(GRAPHML)
    found = Data(f"graphml:{path}").load()
    assert found.nodes.ravel().tolist() == [1.5, 2, 3]
    assert found.labels.tolist() == [0, 1, -1]
    assert len(found.senders) == 4


def test_what_graphml_does_not_say_is_its_default(tmp_path):
    path = tmp_path / "mine.graphml"
    default = 'attr.name="label" attr.type="string"><default>y</default></key>'
    text = GRAPHML.replace('attr.name="label" attr.type="string"/>', default)
    text = text.replace('<node id="b"><data key="d0">y</data>', '<node id="b"><data key="d0"/>')
    path.write_text(text)
    found = graph_files.read_graphml(path, False, 0)
    assert found.classes == ("x", "y")
    assert found.labels.tolist() == [0, -1, 1]  # said, said to be empty, not said
    assert found.edges is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp037"])
def test_graphml_may_not_declare_entities_in_any_encoding(tmp_path, encoding):
    path = tmp_path / "mine.graphml"
    declared = GRAPHML.replace("<graphml", '<!DOCTYPE x [<!ENTITY e "1">]><graphml')
    first = f'<?xml version="1.0" encoding="{encoding}"?>'
    if encoding == "cp037":  # of EBCDIC, in which all but the first line is written
        path.write_bytes(first.encode() + declared.encode(encoding))
    else:
        path.write_bytes((first + declared).encode(encoding))
    with pytest.raises(UserError, match=r"declares a document type|is no GraphML file"):
        graph_files.read_graphml(path, False, 0)


@pytest.mark.parametrize("encoding", ["nonsense", "shift_jis"])
def test_graphml_of_a_strange_encoding_is_refused(tmp_path, encoding):
    path = tmp_path / "mine.graphml"
    path.write_text(f'<?xml version="1.0" encoding="{encoding}"?>' + GRAPHML)
    with pytest.raises(UserError, match="is no GraphML file"):
        graph_files.read_graphml(path, False, 0)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<graphml", "<!DOCTYPE x><graphml", "declares a document type"),
        (
            '"age" attr.type="double"',
            '"split" attr.type="string"',
            'node "a": split "1.5" is none of',
        ),
        ('<data key="d1">3</data>', '<data key="d1">inf</data>', '"age" holds "inf"; expected a f'),
        ("</graphml>", "", "is no GraphML file"),
        ('target="c"', 'target="z"', 'names node "z", which does not exist'),
        ('<data key="d1">3</data>', "", "some nodes hold age, and some do not"),
        ('<edge source="a" target="b"/><edge source="b" target="c"/>', "", "has no edges"),
        ("<graph ", "<graf ", "is no GraphML file"),
    ],
)
def test_graphml_that_does_not_fit_is_refused(tmp_path, old, new, words):
    path = tmp_path / "mine.graphml"
    path.write_text(GRAPHML.replace(old, new))
    with pytest.raises(UserError, match=words):
        graph_files.read_graphml(path, False, 0)


def test_a_block_model_has_its_degree_and_its_signal():
    """k = 2, c = 10, signal 4: a = 10 + sqrt(40), b = 10 - sqrt(40)."""
    found = made_graphs.blocks(2_000, 2, 10, 4)
    same = found.labels[found.senders] == found.labels[found.receivers]
    assert len(found.senders) / 2_000 == pytest.approx(10, rel=0.03)
    assert same.mean() == pytest.approx((10 + 40**0.5) / 20, abs=0.01)
    with pytest.raises(
        UserError, match="--made-signal is 12; with a mean degree of 10 it is at most 10"
    ):
        made_graphs.blocks(100, 2, 10, 12)


def test_block_models_that_do_not_exist_are_refused_for_what_is_wrong_with_them():
    with pytest.raises(UserError, match=r"made-signal is 50; .* at most 10"):
        made_graphs.blocks(1_000, 2, 10, 50)
    with pytest.raises(UserError, match=r"made-degree is 2000, .* there are 1,000 nodes"):
        made_graphs.blocks(1_000, 2, 2_000, 4)


def test_chains_tell_their_class_at_the_first_node_alone():
    found = made_graphs.chains(100)
    assert found.num_nodes == 99
    starts = np.flatnonzero(found.nodes.any(axis=1))
    assert starts.tolist() == list(range(0, 99, 9))
    assert (found.nodes[starts].argmax(axis=1) == found.labels[starts]).all()
    assert (found.labels.reshape(11, 9) == found.labels[starts][:, None]).all()
    both = set(zip(found.senders.tolist(), found.receivers.tolist(), strict=True))
    onward = made_graphs.chains(100, directed=True)
    one_way = set(zip(onward.senders.tolist(), onward.receivers.tolist(), strict=True))
    assert one_way == {(i, i + 1) for i in range(98) if i % 9 != 8}
    assert both == one_way | {(j, i) for i, j in one_way}
    parts = [set(part // 9) for part in (found.train, found.validation, found.test)]
    assert [len(part) for part in parts] == [6, 2, 3]
    with pytest.raises(UserError, match="chains of 9 nodes take at least 45"):
        made_graphs.chains(44)


def test_cycles_and_triangles_differ_in_nothing_near():
    found = made_graphs.cycles(10, 1)
    assert (np.bincount(found.receivers) == 2).all()
    assert (found.nodes[:, 0] == 1).all()
    links = set(zip(found.senders.tolist(), found.receivers.tolist(), strict=True))
    for graph, label in enumerate(found.labels):
        reached = {6 * graph}
        for _ in range(6):
            reached |= {receiver for sender, receiver in links if sender in reached}
        assert len(reached) == (3 if label else 6)


def test_the_karate_club_is_whole():
    found = made_graphs.karate()
    assert (found.num_nodes, len(found.senders)) == (34, 156)
    assert np.bincount(found.receivers)[[0, 33]].tolist() == [16, 17]
    assert np.bincount(found.labels).tolist() == [17, 17]


def test_superpixels_by_hand():
    """The left half is white, the right half black: two that touch."""
    image = np.zeros((8, 8))
    image[:, :4] = 1
    nodes, pairs = superpixels._graph(image)
    assert nodes[:, 3].sum() * 32 == 256
    assert nodes[:, 0].max() == 1
    assert {0, 1} <= set(pairs.ravel().tolist())


def test_data_is_checked():
    for changed, words in (
        ({"data": "blokcs"}, "names no graphs. Did you mean blocks"),
        ({"data": "planetoid:pubmed"}, "Did you mean planetoid:"),
        ({"data": "edges:"}, "names no graphs"),
        ({"data_dir": "x"}, "--data-dir=x is for planetoid, tu, not for blocks"),
        ({"node_labels": "x"}, "--node-labels=x is for edges:PATH"),
        ({"directed": True}, "--directed is for"),
        ({"fold": 10}, "--fold is 10"),
        ({"made_nodes": 30, "made_blocks": 4}, "at least 10 for each block"),
    ):
        with pytest.raises(UserError, match=words):
            Data(**changed).check("")


def test_features_stay_sparse():
    found = graphs.whole(made_graphs.karate())
    assert found.nodes.values.shape == (34,)
    assert found.num_features == 34
    assert graphs.dense(made_graphs.karate().nodes).sum() == 34
