"""Data at the speed of the disk: packed once on shared storage, copied to each node's scratch, read from there.

``pack`` says what a pack is; ``packing`` makes one; ``copying`` brings it to a node, into what ``scratch`` keeps there;
``reader`` reads images from it. Nothing here needs torch or numpy but ``backend``, which plugs the reader into mmcv.
"""
