"""Runs from Python: two learning rates, side by side. Cells begin with ``# %%``; run it as a script or in cells."""

# %% A synthetic data set in the LVIS format, as for the other tutorials
import subprocess
import sys
from pathlib import Path

from ecm_cluster import Run, submit

data = Path("data/python")
if not data.exists():
    subprocess.run([sys.executable, "-m", "ecm_cluster.synthesize", str(data), "--train-images", "60", "--val-images",
                    "12", "--classes", "24"], check=True)

# %% Submit two runs of the demo on this machine; without cluster="local" they go to Slurm.
# Every key of a job file is an argument. What is invalid raises a UserError, with the line that the verb prints.
runs = []
for lr in (0.001, 0.0005):
    run = submit("demo", cluster="local", name=f"lr-{lr}", data_root=str(data), gpus=1, check=False,
                 options={"optimizer.lr": lr, "runner.max_epochs": 1, "log_config.interval": 1})
    print(run, run.state().state)
    state = run.wait(timeout=1200)
    assert state.state == "done", state.reason
    runs.append(run)

# %% Scores, as a row for each scored checkpoint: a table for pandas, if you like
for run in runs:
    best = max(run.scores(), key=lambda row: row["segm_AP"] or 0.0)
    print(f"{run.name}: mask AP {100 * (best['segm_AP'] or 0.0):.1f} at iteration {best['iteration']}")

# %% The training log over all attempts: each iteration once, however often the run was interrupted
for run in runs:
    lowest = min(run.log(), key=lambda line: line["loss"])
    print(f"{run.name}: lowest loss {lowest['loss']:.3f} at iteration {lowest['iteration']}")

# %% Another day, or another notebook: a run by its name
again = Run("lr-0.001")
print(again.state().state, again.path)
