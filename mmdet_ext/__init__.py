"""What is registered into mmdet: losses, assigners, runners, datasets. It does not depend on clusters.

Configs load all of it with
``custom_imports = dict(imports=['mmdet_ext.register'], allow_failed_imports=False)``. This file imports
nothing, so that parts which need no torch (:mod:`mmdet_ext.data.class_counts`) load without it.
"""
