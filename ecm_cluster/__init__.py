"""Train long-tail detectors on preemptible Slurm GPUs: submit, resume, evaluate, report."""

__version__ = "0.1.0"
