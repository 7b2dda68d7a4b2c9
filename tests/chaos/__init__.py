"""The chaos campaign: trainings that are killed at random, through the real command line, and what is left of them.

    python -m tests.chaos --kills 200 --seed 1

Trainings of a tiny detector are submitted, on this machine or on a real Slurm, and their processes killed: half of
the kills at the named points of :mod:`ecm_cluster.base.files`, half by signals at random moments. Each run must
complete all the same, and then be what an undisturbed run of the same job is, bit by bit: weights, optimizer, every
checkpoint that is left, and the log. All choices come from the seed; when exactly a signal arrives is the machine's.
"""
