"""Completion in a real bash, and man pages that groff reads without a warning."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from steering import ended_run

from ecm_cluster import __main__ as script
from ecm_cluster.console import cli
from tools import manpages

pytest.importorskip("shtab")


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("completion") / "ecm-cluster.bash"
    path.write_text(script.completion(["bash"]))
    return str(path)


def completed(bash_script: str, line: str, cwd: object) -> set[str]:
    """What Tab offers at the end of a line."""
    words = line.split(" ")
    code = (f"source {shlex.quote(bash_script)}; COMP_WORDS=({' '.join(map(shlex.quote, words))}); "
            f"COMP_CWORD={len(words) - 1}; COMP_LINE={shlex.quote(line)}; COMP_POINT={len(line)}; "
            f"_shtab_ecm_cluster ecm-cluster {shlex.quote(words[-1])} {shlex.quote(words[-2])}; "
            "printf '%s\\n' \"${COMPREPLY[@]}\"")
    done = subprocess.run(["bash", "--norc", "-c", code], cwd=str(cwd), capture_output=True, text=True, check=False)
    assert not re.search("not found|error", done.stderr), done.stderr
    return set(done.stdout.split())


def test_bash_completes_verbs_options_runs_jobs_and_choices(tmp_path, bash_script):
    for name in ("exp-1", "exp-2", "first"):
        ended_run(tmp_path / "runs" / name)
    ended_run(tmp_path / "elsewhere" / "other")
    (tmp_path / "mine.yaml").touch()
    assert {"submit", "status", "archive"} <= completed(bash_script, "ecm-cluster ", tmp_path)
    assert completed(bash_script, "ecm-cluster sta", tmp_path) == {"status", "stage"}
    assert {"--json", "--runs-dir"} <= completed(bash_script, "ecm-cluster status --", tmp_path)
    assert completed(bash_script, "ecm-cluster status exp", tmp_path) == {"exp-1", "exp-2"}
    assert completed(bash_script, "ecm-cluster cancel exp-1 fi", tmp_path) == {"first"}
    assert completed(bash_script, "ecm-cluster status --runs-dir elsewhere o", tmp_path) == {"other"}
    assert {"demo", "r50_1x", "mine.yaml"} <= completed(bash_script, "ecm-cluster submit ", tmp_path)
    assert completed(bash_script, "ecm-cluster submit --cluster l", tmp_path) == {"local"}
    assert completed(bash_script, "ecm-cluster stage ver", tmp_path) == {"verify"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_each_shell_has_a_script_with_every_verb(shell, capsys):
    assert cli.run(script.main, ["--print-completion", shell]) == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in script.VERBS)


def test_without_shtab_and_for_another_shell_it_is_one_line(capsys, monkeypatch):
    assert cli.run(script.main, ["--print-completion", "fish"]) == 2
    assert capsys.readouterr().err == "error: print-completion: 'fish' is unknown; expected one of: bash, zsh, tcsh\n"
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.run(script.main, ["--print-completion", "bash"]) == 2
    assert capsys.readouterr().err == \
        "error: print-completion: shtab is not installed; pip install 'ecm-cluster[completion]'\n"


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_each_verb_has_a_man_page_with_every_option(tmp_path):
    assert manpages.main([str(tmp_path)]) == 0
    assert len(list(tmp_path.iterdir())) == len(script.VERBS) + 1
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-P-cbou", *map(str, sorted(tmp_path.iterdir()))],
                          capture_output=True, text=True, check=True)
    assert done.stderr == ""
    text = done.stdout.replace("\N{HYPHEN}", "-").replace("\N{MINUS SIGN}", "-")
    for verb in script.VERBS:
        for action in importlib.import_module(f"ecm_cluster.{verb}").parser()._actions:
            assert all(option in text for option in action.option_strings), (verb, action.option_strings)
    assert "ecm-cluster status [-h]" in text
