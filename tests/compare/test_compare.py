"""Two runs, class by class."""

from __future__ import annotations

import csv
import json

import pytest
from scored import scored_run

from ecm_cluster import compare
from ecm_cluster.console import cli


def call(capsys, *argv: object) -> tuple[int, str, str]:
    code = cli.run(compare.main, [str(a) for a in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def two(tmp_path):
    scored_run(tmp_path / "a", {10: 0.1, 20: 0.2})
    scored_run(tmp_path / "b", {20: 0.3})
    return tmp_path


def test_groups_and_the_classes_that_changed_most_are_shown(capsys, two):
    code, out, _ = call(capsys, "a", "b", "--runs-dir", two)
    assert code == 0
    assert "mask AP\n  A  a, iteration 20\n  B  b, iteration 20\n" in out
    assert "AP   10.0  15.0   +5.0           4     0     0" in out
    assert "APc     –     –      –           1     0     0" in out
    assert out.index("rare classes") < out.index("common classes") < out.index("frequent classes")
    assert "dog           30  20.0  30.0  +10.0" in out


def test_a_class_without_a_figure_is_neither_up_nor_down(capsys, two):
    code, out, _ = call(capsys, "a", "b", "--runs-dir", two, "--iou", "bbox", "--json")
    changes = {c["name"]: c["change"] for c in json.loads(out)["classes"]}
    assert changes["dog"] is None and changes["ant"] == pytest.approx(0.1)


def test_an_older_checkpoint_can_be_named(capsys, two):
    code, out, _ = call(capsys, "a@10", "b", "--runs-dir", two, "--csv", two / "all.csv")
    assert "A  a, iteration 10" in out
    rows = list(csv.DictReader((two / "all.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["ant", "bee", "cat", "dog"]
    assert float(rows[0]["change"]) == pytest.approx(0.2)


def test_what_cannot_be_compared_is_refused_with_one_line(capsys, two):
    scored_run(two / "other", {20: 0.3}, annotations="sha256:b")
    for argv, said in {("a", "other"): "were scored on different annotations", ("a", "none"): "neither a run directory",
                       ("a@7", "b"): "a@7 has no scores yet"}.items():
        code, out, err = call(capsys, *argv, "--runs-dir", two)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert said in err
