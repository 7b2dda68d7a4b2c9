"""Job files, site file and flags."""

from __future__ import annotations

import re
import textwrap
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecm_cluster.base import units
from ecm_cluster.base.errors import UserError
from ecm_cluster.job import job
from ecm_cluster.mmconfig import config, shipped


@pytest.fixture(autouse=True)
def no_site(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return str(path)


def test_flags_beat_the_job_file_which_beats_the_site_file(tmp_path):
    write(tmp_path / "config/ecm-cluster/cluster.yaml", "partition: site\naccount: site\nqos: site\n")
    made = job.load(write(tmp_path / "a.yaml", "partition: file\naccount: file\n"), {"partition": "flag"})
    assert (made.partition, made.account, made.qos) == ("flag", "file", "site")


def test_the_site_file_can_be_named_by_an_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv(job.SITE_ENV, write(tmp_path / "site.yaml", "account: vision\nslurm: {mail-type: END}\n"))
    made = job.load(write(tmp_path / "a.yaml", "slurm: {nice: 10}\n"), {})
    assert made.account == "vision"
    assert made.slurm == {"mail-type": "END", "nice": 10}


def test_a_named_site_file_that_is_missing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv(job.SITE_ENV, str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        job.load(None, {})


@pytest.mark.parametrize(("text", "said"), [
    ("nods: 2", "did you mean nodes?"),
    ("nodes: 0", "nodes: invalid value 0; expected a whole number, 1 or more"),
    ("nodes: true", "nodes: invalid value True"),
    ("gpus: two", "gpus: invalid value 'two'"),
    ("time: soon", "time: invalid value 'soon'; expected [D-]HH:MM:SS or minutes"),
    ("mem_per_gpu: lots", "mem_per_gpu: invalid value 'lots'; expected a size such as 48G"),
    ("device: tpu", "expected one of: cuda, cpu"),
    ("setup: module load x", "setup: invalid value 'module load x'; expected a list of shell lines"),
    ("evaluation: {gpu: 1}", "expected one of: enabled, nodes, gpus, partition, time"),
    ("evaluation: 3", "evaluation: invalid value 3; expected a block of keys, or true or false"),
    ("slurm: {output: x}", "slurm: option 'output' is set by the launcher itself"),
    ("slurm: {job_name: x}", "use name"),
    ("- a\n- b", "expected a mapping of keys to values"),
    ("nodes: [", "not valid YAML"),
    ("nodes: 1\nnodes: 2", "line 2: not valid YAML (the key 'nodes' is given twice)"),
    ("options:\n  a.b: 1\n  a.b: 2", "line 3: not valid YAML (the key 'a.b' is given twice)"),
    ("options: {a.b: 1, a: 2}", "options: a replaces what a.b sets"),
    ("options: [a]", "options: "), ("slurm: 3", "slurm: "), ("env: [A=1]", "env: "), ("options: {[a]: 2}", "YAML"),
])
def test_a_wrong_job_file_is_reported_in_one_line_that_says_what_is_expected(tmp_path, text, said):
    with pytest.raises(UserError) as caught:
        job.load(write(tmp_path / "a.yaml", text), {})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_of_the_command_line_take_the_place_of_the_job_files(tmp_path):
    file = write(tmp_path / "a.yaml", "options: {+a: 1, b.c: 2, b.d: 3, e: &e {x: 1}, f: {<<: *e, x: 2}, "
                                      "g: {<<: *e, x: 3}}")
    made = job.load(file, {"options": {"a": 5, "b": 6, "e.x": 7}})
    assert made.options == {"a": 5, "b": 6, "e": {"x": 1}, "e.x": 7, "f": {"x": 2}, "g": {"x": 3}}
    wrong = tmp_path / "b.yaml"
    wrong.write_bytes(b"\xff\xfenodes")
    with pytest.raises(UserError, match="line 1: byte 0xff is not UTF-8; save the file as UTF-8"):
        job.load(str(wrong), {})
    for text in ("options:", "options: 3", "env: [a]"):
        with pytest.raises(UserError, match="expected a mapping"):
            job.load(write(tmp_path / "a.yaml", text), {"options": {"a": 1}, "env": {"A": "1"}})


def test_an_unknown_key_lists_every_known_one(tmp_path):
    with pytest.raises(UserError) as caught:
        job.load(write(tmp_path / "a.yaml", "zzz: 1"), {})
    for f in fields(job.Job):
        assert f.name in str(caught.value)


@pytest.mark.parametrize(("text", "minutes"), [
    ("90", 90), ("1:30:00", 90), ("90:00", 90), ("0:30", 1), ("1-0", 1440), ("2-12:30", 3630), ("1-00:00:01", 1441)])
def test_time_limits_are_read_as_sbatch_reads_them(text, minutes):
    assert job.parse_time(text) == minutes


@given(st.integers(0, 9), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_every_full_time_limit_is_read(days, hours, minutes, seconds):
    total = days * 1440 + hours * 60 + minutes + 1
    assert job.parse_time(f"{days}-{hours:02d}:{minutes:02d}:{seconds:02d}") == total


@pytest.mark.parametrize("text", ["time: 12:00:00", "time: '12:00:00'"])
def test_a_time_limit_in_yaml_needs_no_quotes(tmp_path, text):
    assert job.load(write(tmp_path / "a.yaml", text), {}).time_minutes == 720


def test_numbers_in_yaml_are_what_they_look_like(tmp_path):
    made = job.load(write(tmp_path / "a.yaml", "options: {optimizer.lr: 1e-3, a: 010, b: 7, c: -2.5}"), {})
    assert made.options == {"optimizer.lr": 1e-3, "a": "010", "b": 7, "c": -2.5}


@pytest.mark.parametrize(("text", "mib"), [("48G", 49152), ("1.5GB", 1536), ("500M", 500), ("1TiB", 1048576)])
def test_memory_sizes(text, mib):
    assert units.parse_memory(text) == mib


def test_every_job_file_that_is_shipped_loads_and_names_a_config_that_exists(root):
    found = sorted(path for path in (root / "jobs").glob("*.yaml") if "sweep" not in path.stem)
    assert len(found) >= 8
    for path in found:
        made = job.load(str(path), {})
        assert config.find(shipped.find_config(made.config)).is_file(), path


def test_the_example_job_file_shows_every_key(root):
    text = (root / "jobs/example.yaml").read_text()
    for f in fields(job.Job):
        if f.name not in ("name", "threads"):
            assert f"{f.name}:" in text, f.name


def test_a_job_survives_the_way_through_run_json(tmp_path):
    made = job.load(None, {"nodes": 2, "evaluation": {"gpus": 4}, "options": {"a": 1}})
    assert job.make(made.as_dict()) == made


def test_an_unknown_job_file_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match="did you mean r50_1x"):
        job.load("r50_1", {})


@pytest.mark.parametrize("given", ["ecm/mask_rcnn_r50_1x", "configs/demo.py", "mmdet::retinanet/x.py", "my_config.py"])
def test_a_config_in_place_of_a_job_file_is_reported_with_the_flag_to_use(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_config.py").write_text("model = {}")
    with pytest.raises(UserError, match=f"is an mmdet config; pass it as --config {given}"):
        shipped.find_job_file(given)


def test_the_list_of_job_files_holds_job_files_only_and_says_how_a_config_is_given():
    with pytest.raises(UserError, match="one of: .*r50_1x.*; an mmdet config is given with --config") as caught:
        shipped.find_job_file("nosuch")
    assert "eval_sweep" not in str(caught.value)


@pytest.mark.parametrize(("srun", "said"), [
    ({"ntasks": 4}, "srun: option 'ntasks' is set by the launcher itself; the step has all of the job"),
    ({"kill_on_bad_exit": 0}, "when a rank dies, the others end"),
    ({"cont": 1, "lab": True}, "srun: option 'lab' is an abbreviation"),
    ({"container-mounts": ["/a:/a"]}, "srun: option 'container-mounts': invalid value"),
    ({"mpi": None}, "srun: option 'mpi': invalid value None; expected"),
])
def test_an_option_of_srun_that_would_break_a_run_is_refused(srun, said):
    with pytest.raises(UserError, match=re.escape(said)):
        job.make({"srun": srun})
