"""Every verb where the place fails: full disks, quotas, permissions, limits, no home, other locales, closed streams.

    python -m tests.places                       the whole table: verbs down, places across
    python -m tests.places --verb submit --place full --show

Each case sees a small world of its own (data, a pack, three runs) on a file system in memory, in a mount namespace of
its own, so that a disk can be filled and turned read-only without harm: only root can do that. The verb is called in
the bad place, and then again, with the same words, where the place is well again. What is judged is in ``judging.py``.
"""
