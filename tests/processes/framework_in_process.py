"""Imports torch and mmdet as a worker does, for :mod:`ranks_in_process`."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

from ecm_cluster.node.mmdet_trainer import imports

imports.framework()
