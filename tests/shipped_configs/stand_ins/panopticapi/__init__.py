"""What mmdet takes from panopticapi, which is not in the package index; used only where the real one is missing.

An id is written into a PNG as red + 256 · green + 256² · blue, 0 for no segment: the format of COCO's panoptic task.
"""
