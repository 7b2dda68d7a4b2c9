"""The fuzzer: every input that a user or another user can write, made wrong, and what the verbs answer.

    python -m tests.fuzz --cases 2000 --seed 1
    python -m tests.fuzz --seed 1 --only 1234

A case begins with valid input (a job file, a data set, a pack, a run that was trained and scored, …), of which one to
three things are changed: a flag, a value, a byte, the kind of a file. It follows from the seed and its number alone. A
bad answer is a traceback, an exit code other than 0, 1 and 2, more than six lines of error, an error that does not name
what is wrong, silence about what is certainly wrong, control characters in the output, something written although the
input was refused, a process that stays, or a verb that takes longer or more memory than :mod:`tests.fuzz.judging` says.
"""
