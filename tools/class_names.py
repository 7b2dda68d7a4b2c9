"""Makes ``ecm_cluster/mmclasses/class_names.txt`` from the installed mmdet: ``python -m tools.class_names``."""

from __future__ import annotations

from ecm_cluster.mmclasses.class_names import TABLE


def table() -> str:
    """Every dataset of mmdet that has class names of its own, and these, by the dataset's type."""
    from mmdet.datasets import DATASETS

    lines = ["\t".join((name, *map(str, kind.CLASSES))) for name, kind in sorted(DATASETS.module_dict.items())
             if kind.__module__.startswith("mmdet.") and isinstance(getattr(kind, "CLASSES", None), tuple)]
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
