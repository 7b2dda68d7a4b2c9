"""The settings of a group over its seeds: means, deviations, and whether they differ by more than chance."""

from __future__ import annotations

import csv
import json
import math
import random
import re
import shutil
import statistics
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scored import scored_run
from steering import ended_run

from ecm_cluster import compare
from ecm_cluster.base import files
from ecm_cluster.compare import latex, significance
from ecm_cluster.compare.settings import GroupSetting
from ecm_cluster.console import cli
from ecm_cluster.rundir.run import Run

LOSS = "model.roi_head.bbox_head.loss_cls"
# box AP of each seed; scored_run makes mask AP half of it, and APr too
APS = {"@ecm": (0.30, 0.31, 0.32), "@ce": (0.20, 0.22, 0.21), "@see_saw": (0.33, 0.25, None)}


def call(capsys, *argv: object) -> tuple[int, str, str]:
    code = cli.run(compare.main, [str(a) for a in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def make_group(folder: Path, aps: dict[str, tuple[float | None, ...]] = APS, name: str = "grid") -> Path:
    """A group of runs with these figures; None: a run that has not ended."""
    cells = []
    for loss, of_loss in aps.items():
        for seed, ap in enumerate(of_loss):
            settings = {"seed": str(seed), LOSS: loss}
            run = Run(folder / f"{name}-seed{seed}-{loss[1:]}")
            if ap is None:
                ended_run(run.path)
            else:
                earlier = {10: 0.9} if not cells else {}  # scores that do not count
                complete(scored_run(run.path, {**earlier, 20: ap}))
            record = files.read_json(run.run_file)
            files.write_json(run.run_file, {**record, "group": {"name": name, "settings": settings}})
            cells.append({"name": run.name, "settings": settings, "digest": ""})
    (folder / name).mkdir()
    files.write_json(folder / name / "group.json", {"cluster": "local", "job": {}, "varied": ["seed", LOSS],
                                                    "at_once": 1, "cells": cells})
    return folder


def complete(run: Run) -> None:
    files.write_json(run.complete_file(1), {"checkpoint": "iter_0000020-a0001.pth"})


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_group(tmp_path_factory.mktemp("runs"))


def test_mean_and_deviation_over_seeds_of_each_setting_with_those_that_are_missing(capsys, group, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = call(capsys, "grid", "--runs-dir", group)
    assert (code, err) == (0, "")
    masks, boxes, differences, missing = out.split("\n\n")[:4]
    assert re.search(r"^ +n +mask AP +APr +APf$", masks, re.M)
    assert re.search(r"^ecm +3 +15\.5 ± 0\.5 +15\.5 ± 0\.5 +46\.5 ± 1\.5$", masks, re.M)
    assert re.search(r"^see_saw +2 +14\.5 ± 2\.8 ", masks, re.M)
    assert re.search(r"^ce +3 +21\.0 ± 1\.0 ", boxes, re.M)
    assert missing.startswith("missing: grid-seed2-see_saw: failed: ")
    assert "difference to ecm" in differences and max(map(len, out.splitlines())) <= 80
    assert "errors over images are left out: grid-seed0-ecm: " in out  # no detections, or no hotcoco


def test_against_another_setting_as_csv_and_json_unrounded(capsys, group, tmp_path):
    code, out, _ = call(capsys, "grid", "--runs-dir", group, "--against", "ce", "--iou", "bbox", "--csv",
                        tmp_path / "t.csv", "--json")
    found = {s["setting"]: s["figures"]["bbox"]["AP"] for s in json.loads(out)["settings"]}
    assert json.loads(out)["against"] == "ce"
    assert found["ecm"]["mean"] == pytest.approx(0.31) and found["ecm"]["sd"] == pytest.approx(0.01)
    change = found["ecm"]["difference"]
    # seed by seed: 0.10, 0.09, 0.11
    assert (change["value"], change["seeds"]) == pytest.approx((0.1, 0.01 / math.sqrt(3)))
    assert change["p"] == pytest.approx(0.00331, rel=0.01) and change["runs"] == 3  # t = 17.3 with 2 degrees
    assert change["low"] == pytest.approx(0.1 - 4.302653 * 0.01 / math.sqrt(3), abs=1e-6)
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    (row,) = [r for r in rows if (r["setting"], r["figure"]) == ("ecm", "AP")]
    assert float(row["mean"]) == found["ecm"]["mean"] and float(row["p"]) == change["p"]
    assert row["against"] == "ce" and {r["kind"] for r in rows} == {"bbox"}


def test_seeds_that_only_one_setting_has_are_left_out_of_its_difference(capsys, group):
    out = call(capsys, "grid", "--runs-dir", group, "--iou", "bbox", "--json")[1]
    found = {s["setting"]: s["figures"]["bbox"]["AP"]["difference"] for s in json.loads(out)["settings"]}
    assert (found["see_saw"]["value"], found["see_saw"]["runs"]) == pytest.approx((-0.015, 2))


def test_one_run_a_setting_has_no_deviation_and_says_so(capsys, tmp_path):
    make_group(tmp_path, {"@ecm": (0.3,), "@ce": (0.2,)})
    out = call(capsys, "grid", "--runs-dir", tmp_path)[1]
    assert "±" not in out and "with one run a setting nothing is known of other seeds" in out
    assert re.search(r"^ce +mask AP +-5\.0 +– +– +– +– +1$", out, re.M)


def test_the_table_for_a_paper_is_valid_latex(capsys, group, tmp_path):
    assert call(capsys, "grid", "--runs-dir", group, "--latex", tmp_path / "t.tex")[0] == 0
    text = (tmp_path / "t.tex").read_text()
    rows = re.findall(r"^(.*) \\\\$", text, re.M)
    (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    for row in rows[1:]:
        assert len(re.split(r"(?<!\\)&", row)) == len(columns), row
    assert r"see\_saw & 2 & $14.5 \pm 2.8$" in text and r"ce & 3 & $10.5 \pm 0.5^{*}$" in text
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\cmidrule(lr){3-5} \cmidrule(lr){6-8}"):
        assert text.count(part) == 1
    for kind in ("table", "tabular"):
        assert text.count(f"\\begin{{{kind}}}") == text.count(f"\\end{{{kind}}}") == 1
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    if shutil.which("pdflatex"):
        page = tmp_path / "page.tex"
        page.write_text("\\documentclass{article}\\usepackage{booktabs}\\begin{document}" + text + "\\end{document}")
        subprocess.run(["pdflatex", "-halt-on-error", page.name], cwd=tmp_path, check=True, capture_output=True)


def test_every_character_that_latex_reads_is_escaped():
    assert latex.escaped("a_b & 5% #1 $x {y} ~ ^ \\z") == \
        r"a\_b \& 5\% \#1 \$x \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z"


@pytest.mark.parametrize("argv, said", [
    (["grid", "--against", "ecmm"], "against: 'ecmm' is unknown (did you mean ecm?); expected one of: ecm, ce"),
    (["grid", "--replicates", "1"], "replicates: invalid value 1; expected 2 or more, or 0"),
    (["grid", "--seed", "-1"], "seed: invalid value -1"),
    (["grid", "grid-seed0-ce"], "'grid' is neither a run directory nor"),
    (["grid-seed0-ce"], "expected two runs, or a group of runs"),
    (["grid-seed0-ce", "grid-seed1-ce", "--against", "x"], "against: only for a group of runs"),
    (["grid-seed0-ce", "grid-seed1-ce", "--latex", "t.tex"], "latex: only for a group of runs"),
    (["none"], "none: expected two runs, or a group of runs"),
])
def test_what_cannot_be_compared_is_refused_with_one_line(capsys, group, monkeypatch, argv, said):
    monkeypatch.chdir(group)
    code, out, err = call(capsys, *argv, "--runs-dir", group)
    assert (code, out, len(err.splitlines())) == (2, "", 1) and said in err


def test_a_group_without_scores_or_with_other_annotations_is_refused(capsys, tmp_path):
    make_group(tmp_path, {"@ecm": (None,)}, name="none")
    assert "no run of the group 'none' has scores of its last checkpoint yet (none-seed0-ecm: failed" in call(
        capsys, "none", "--runs-dir", tmp_path)[2]
    make_group(tmp_path, {"@ecm": (0.1,), "@ce": (0.2,)}, name="two")
    for path in (tmp_path / "two-seed0-ce").glob("evaluations/*/metrics.json"):
        document = files.read_json(path)
        document["provenance"]["annotations_digest"] = "sha256:b"
        files.write_json(path, document)
    assert "were scored on different annotations" in call(capsys, "two", "--runs-dir", tmp_path)[2]


def test_runs_of_different_code_are_pointed_out(capsys, tmp_path):
    group = make_group(tmp_path, {"@ecm": (0.1,), "@ce": (0.2,)})
    run = Run(group / "grid-seed0-ce")
    files.write_json(run.run_file, {**files.read_json(run.run_file), "code": {"digest": "sha256:x"}})
    assert "do not all have the same code" in call(capsys, "grid", "--runs-dir", group)[1]


# ---------------------------------------------------------------------------------------------- significance


@pytest.mark.parametrize("t, freedom, p", [  # from tables of Student's distribution
    (12.7062, 1, 0.05), (4.30265, 2, 0.05), (3.18245, 3, 0.05), (2.77645, 4, 0.05), (2.22814, 10, 0.05),
    (63.6567, 1, 0.01), (4.60409, 4, 0.01), (3.16927, 10, 0.01), (1.95996, 1e6, 0.05), (0.0, 5, 1.0)])
def test_p_is_that_of_students_distribution(t, freedom, p):
    assert significance.p_value(t, freedom) == pytest.approx(p, abs=1e-5)
    assert significance.p_value(-t, freedom) == significance.p_value(t, freedom)
    if p < 1:
        assert significance.quantile(1 - p, freedom) == pytest.approx(t, rel=1e-4)


def setting(name: str, values: dict[str, float]) -> GroupSetting:
    """Runs with these figures by seed."""
    runs: list[Any] = [SimpleNamespace(cell=SimpleNamespace(name=f"{name}{seed}"), seed=seed,
                                       figure=lambda kind, figure, value=value: value)
                       for seed, value in values.items()]
    return GroupSetting(name, runs)


def test_images_alone_decide_where_there_is_one_seed():
    rng = random.Random(0)
    draws = [rng.gauss(0, 0.02) for _ in range(200)]  # of images that are hard or easy for both
    own = [rng.gauss(0, 0.005) for _ in range(200)]
    replicates = {"a0": {"AP": [0.3 + d + o for d, o in zip(draws, own)]}, "b0": {"AP": [0.28 + d for d in draws]}}
    found = significance.difference(setting("a", {"0": 0.3}), setting("b", {"0": 0.28}), "segm", "AP", replicates)
    assert found.seeds is None and found.images == pytest.approx(statistics.stdev(own))
    assert found.p == pytest.approx(2 * statistics.NormalDist().cdf(-0.02 / found.images)) and found.p < 0.001
    same = {name: {"AP": [None if at % 2 else v for at, v in enumerate(values["AP"])]}
            for name, values in replicates.items()}
    half = significance.difference(setting("a", {"0": 0.3}), setting("b", {"0": 0.28}), "segm", "AP", same)
    assert half.images == pytest.approx(statistics.stdev(own[::2])), "replicates in which it is undefined are left out"


def test_errors_of_seeds_and_images_add_as_squares_and_none_is_made_up():
    one, other = setting("a", {"0": 0.30, "1": 0.34}), setting("b", {"0": 0.20, "1": 0.20})
    replicates = {f"{name}{seed}": {"AP": [0.3, 0.32]} for name in "ab" for seed in "01"}
    replicates["a0"] = replicates["a1"] = {"AP": [0.3, 0.4]}
    found = significance.difference(one, other, "segm", "AP", replicates)
    seeds, images = statistics.stdev([0.10, 0.14]) / math.sqrt(2), statistics.stdev([0.0, 0.08])
    assert (found.seeds, found.images) == pytest.approx((seeds, images))
    freedom = (math.hypot(seeds, images) / seeds) ** 4
    assert found.high - found.value == pytest.approx(significance.quantile(0.95, freedom) * math.hypot(seeds, images))
    del replicates["b1"]
    assert significance.difference(one, other, "segm", "AP", replicates).images is None
    unpaired = significance.difference(one, setting("b", {"5": 0.2, "6": 0.22}), "segm", "AP", {})
    assert unpaired.seeds == pytest.approx(math.hypot(0.02, 0.01))
    nothing = significance.difference(setting("a", {"0": 0.3}), setting("b", {"0": 0.2}), "segm", "AP", {})
    assert (nothing.value, nothing.p, nothing.low) == (pytest.approx(0.1), None, None)


@pytest.mark.slow
def test_settings_that_do_not_differ_are_called_different_as_often_as_the_level_says():
    rng, found = random.Random(1), []
    for _ in range(400):
        images = [rng.gauss(0, 1) for _ in range(2)]  # how lucky each setting is with the images
        values = [{str(seed): 0.3 + 0.01 * (images[which] + rng.gauss(0, 1)) for seed in range(3)} for which in (0, 1)]
        replicates = {f"{name}{seed}": {"AP": [0.3 + 0.01 * rng.gauss(0, 1)] * 2} for name in "ab" for seed in range(3)}
        for name in "ab":  # the image part is common to the seeds of a setting
            draws = [0.01 * rng.gauss(0, 1) for _ in range(60)]
            replicates.update({f"{name}{seed}": {"AP": draws} for seed in range(3)})
        found.append(significance.difference(setting("a", values[0]), setting("b", values[1]), "segm", "AP",
                                             replicates).p)
    assert 0.02 < sum(p < 0.05 for p in found) / len(found) < 0.08
