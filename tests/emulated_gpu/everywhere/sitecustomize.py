"""On PYTHONPATH: every worker of the launcher gets emulated GPUs, and its check before the start finds them.

mmcv's operators are built for the CPU where there is no GPU, and computed there: the check, which reads libraries, is
shown torchvision's instead, which have code for GPUs.
"""

import os
import sys

WORKERS = {"ecm_cluster.node.training.worker", "ecm_cluster.node.inference.worker"}

if WORKERS & set(sys.orig_argv):
    sys.path.append(os.environ["EMULATED_GPU_CODE"])
    import emulated_gpu

    runtime = emulated_gpu.load(os.environ["EMULATED_GPU_LIBRARY"])
    from emulated_gpu import compute

    compute.activate(runtime)
elif "ecm_cluster.node.gpu.preflight" in sys.orig_argv:
    sys.path.insert(0, os.environ["EMULATED_GPU_PACKAGES"])
