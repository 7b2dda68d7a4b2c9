"""Everything that needs a GPU, on a machine that has one and no network; run by ``tools/gpu_check``."""
