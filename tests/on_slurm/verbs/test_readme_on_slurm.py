"""What the README tells a new user to type on a cluster works there."""

from __future__ import annotations

import readme
from small import await_state

from ecm_cluster.rundir.run import Run


def test_the_cluster_commands_of_the_readme_work_as_shown(slurm, tmp_path):
    readme.run(readme.commands("local")[0], tmp_path)
    printed = [readme.run(line, tmp_path, slurm.env) for line in readme.commands("slurm")]
    assert "next:" in printed[0]
    assert printed[1].startswith("on-slurm: ")
    await_state(Run(tmp_path / "runs/on-slurm"), "done", env=slurm.env)
