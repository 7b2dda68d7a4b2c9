"""Every config family that mmdet ships, trained, resumed and scored at tiny size on the CPU.

``python -m tests.shipped_configs --help`` says how to run it; its table is docs/reference/shipped-configs.md.
"""
