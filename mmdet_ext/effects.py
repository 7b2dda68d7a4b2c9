"""What hooks do to the dataset, the model and themselves beside tensors: into a checkpoint and back.

A hook may change at some epoch what no ``state_dict`` holds: YOLOX's turns augmentations off through
``runner.data_loader.dataset`` and sets ``use_l1`` on a head, others set a scale, an interval, or ``requires_grad``. Two
kinds of change are kept:

- *Plain values* (numbers, strings, and lists, tuples and dicts of them) in attributes of the dataset with its
  transforms, of the model's modules, and of hooks: those that differ from a freshly built one are part of a checkpoint.
  Those of objects that were made later, as the handle of a file that a transform opens, are not.
- *Other parts*, as a pipeline or a loss that a hook replaces: the call that did it is on record, and is made again
  with the same epoch and iteration when the training is resumed.

Not covered: containers of more than :data:`LIMIT` values, tensors that are not in a ``state_dict``, what differs
between ranks (rank 0's values are kept), and changes by a hook of mmcv's own, which keep their state otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Tuple

import torch

LIMIT = 4000  # values in a container: class names of LVIS are kept, lists of annotations are not
SCALARS = (bool, int, float, str, type(None))
# set anew by whoever starts an epoch, or no state at all
PASSED_OVER = {"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "CLASSES", "PALETTE"}

Path = Tuple[Tuple[str, Any], ...]  # of ("attribute", name), ("item", key) and ("gradient", name)


def is_plain(value: Any) -> bool:
    """Whether a value is made of numbers, strings and None in few enough lists, tuples and dicts."""
    left, todo = LIMIT, [value]
    while todo:
        item = todo.pop()
        left -= 1
        if left < 0:
            return False
        if type(item) in (list, tuple):
            if len(item) > left:
                return False
            todo += item
        elif type(item) is dict:
            if 2 * len(item) > left:
                return False
            todo += [*item.keys(), *item.values()]
        elif type(item) not in SCALARS:
            return False
    return True


def _parts(value: Any) -> Iterator[tuple[tuple[str, Any], Any]]:
    """(step, part) of everything inside an object that may hold state."""
    if isinstance(value, torch.nn.Module):
        yield from ((("item", name), module) for name, module in value._modules.items() if module is not None)
        yield from ((("gradient", name), p.requires_grad) for name, p in value._parameters.items() if p is not None)
    if isinstance(value, Mapping):
        if len(value) <= LIMIT:
            yield from ((("item", key), item) for key, item in value.items() if type(key) in SCALARS)
    elif isinstance(value, (list, tuple)) and len(value) <= LIMIT:
        yield from ((("item", at), item) for at, item in enumerate(value))
    yield from ((("attribute", name), item) for name, item in getattr(value, "__dict__", {}).items()
                if name not in PASSED_OVER and not name.endswith("_hooks"))


def _is_walkable(value: Any) -> bool:
    """Whether an object may hold parts of the dataset or the model; handles, arrays, classes and loggers do not."""
    if isinstance(value, (torch.Tensor, type)) or callable(getattr(value, "fileno", None)):
        return False
    origin = type(value).__module__.partition(".")[0]
    if isinstance(value, (list, tuple, Mapping)):
        return True
    return hasattr(value, "__dict__") and (isinstance(value, torch.nn.Module) or origin not in (
        "builtins", "numpy", "torch", "logging", "threading", "weakref", "functools", "re", "_thread", "pathlib"))


def _walk(value: Any, path: Path, seen: set[int]) -> Iterator[tuple[Path, Any]]:
    """(path, value) of every plain value and of every other part, each object once."""
    for step, part in _parts(value):
        inner = (*path, step)
        if is_plain(part):
            yield inner, part
        elif _is_walkable(part) and id(part) not in seen:
            seen.add(id(part))
            yield inner, part
            yield from _walk(part, inner, seen)


def _plain_values(value: Any) -> dict[Path, Any]:
    # a copy: what is compared with it later may be changed in place
    return {path: _copy(part) for path, part in _walk(value, (), {id(value)}) if is_plain(part)}


def _copy(value: Any) -> Any:
    if type(value) in (list, tuple):
        return type(value)(_copy(item) for item in value)
    return {key: _copy(item) for key, item in value.items()} if type(value) is dict else value


def _structure(value: Any) -> list[tuple[Path, int, str]]:
    """The other parts by what they are; an object in the place of another one is another structure."""
    return [(path, id(part), type(part).__qualname__) for path, part in _walk(value, (), {id(value)})
            if not is_plain(part)]


def fingerprint(dataset: Any) -> Any:
    """What tells a dataset from itself after a hook has changed it."""
    return _plain_values(dataset), _structure(dataset)


def _modules(model: torch.nn.Module) -> list[int]:
    return [id(module) for module in model.modules()]


def _put(value: Any, path: Path, new: Any) -> bool:
    """Set what a path leads to; False where the path leads nowhere."""
    *way, (kind, last) = path
    try:
        for step, name in way:
            value = getattr(value, name) if step == "attribute" else \
                value._modules[name] if isinstance(value, torch.nn.Module) else value[name]
        if kind == "gradient":
            value._parameters[last].requires_grad_(new)
        elif kind == "item":
            value[last] = new
        else:
            setattr(value, last, new)
    except (AttributeError, KeyError, IndexError, TypeError):
        return False
    return True


class Effects:
    """The changes that hooks have made since everything was built.

    Args:
        dataset: The training set, as hooks reach it.
        model: The detector itself.
        hooks: Those whose calls are watched, by a name that is the same in every attempt.
    """

    def __init__(self, dataset: Any, model: torch.nn.Module, hooks: Mapping[str, Any]) -> None:
        self.roots: dict[str, Any] = {"dataset": dataset, "model": model, **{f"hook {k}": h for k, h in hooks.items()}}
        self.names = {id(hook): name for name, hook in hooks.items()}
        self.built = {name: self._values(name) for name in self.roots}
        # objects that were there: what is made while training (an open file, with its path) is not a hook's doing
        self.objects = {name: {(), *(path for path, _, _ in _structure(root))} for name, root in self.roots.items()}
        self.calls: list[list[Any]] = []

    def _values(self, name: str) -> dict[Path, Any]:
        root = self.roots[name]
        if not name.startswith("hook "):
            return _plain_values(root)
        return {(step,): _copy(part) for step, part in _parts(root) if is_plain(part)}  # not into what it refers to

    def watch(self, hook: Any, event: str, runner: Any, call: Callable[[Any], None]) -> None:
        """Make a hook's call, and put it on record where it has replaced parts of the dataset or the model."""
        name = self.names.get(id(hook))
        if name is None:
            call(runner)
            return
        # all of a model takes milliseconds, which is much for each iteration: there its modules must do
        parts = _structure if event.endswith("_epoch") else _modules
        before = _structure(self.roots["dataset"]), parts(self.roots["model"])
        call(runner)
        if before != (_structure(self.roots["dataset"]), parts(self.roots["model"])):
            begun = runner.position if event == "before_train_epoch" else 0  # in a resumed epoch
            inner = 0 if event.endswith("_epoch") else runner._inner_iter
            self.calls.append([name, event, runner._epoch, runner._iter - begun, inner])

    def state(self) -> dict[str, Any]:
        """What :meth:`put_back` needs; plain values only."""
        return {"values": [[name, [list(step) for step in path], value] for name, path, value in self._changed()],
                "calls": [list(call) for call in self.calls]}

    def _changed(self) -> Iterator[tuple[str, Path, Any]]:
        """(root, path, value) of what is not as it was built."""
        for name, built in self.built.items():
            objects = self.objects[name]
            yield from ((name, path, value) for path, value in self._values(name).items()
                        if (_differ(built[path], value) if path in built else path[:-1] in objects))

    def call_again(self, calls: Iterable[Sequence[Any]], runner: Any) -> None:
        """Make calls on record again, each with the runner's counters as they were."""
        self.calls = [list(call) for call in calls]
        hooks = {name: self.roots[f"hook {name}"] for name in self.names.values()}
        counters = runner._epoch, runner._iter, runner._inner_iter
        try:
            for name, event, *at in self.calls:
                if name in hooks:
                    runner._epoch, runner._iter, runner._inner_iter = at
                    getattr(hooks[name], event)(runner)
        finally:
            runner._epoch, runner._iter, runner._inner_iter = counters

    def put_back(self, state: Mapping[str, Any]) -> list[str]:
        """Set the plain values to those of a state, and all others to what they were built with.

        Returns:
            What is not there any more, by its dotted name.
        """
        wanted = {(name, tuple(map(tuple, path))): value for name, path, value in state.get("values", ())}
        for name, path, _ in list(self._changed()):
            if (name, path) not in wanted and path in self.built[name]:
                _put(self.roots[name], path, _copy(self.built[name][path]))
        return [".".join([name, *(str(step[1]) for step in path)]) for (name, path), value in wanted.items()
                if name not in self.roots or not _put(self.roots[name], path, _copy(value))]


def _differ(one: Any, other: Any) -> bool:
    return type(one) is not type(other) or (one != other and repr(one) != repr(other))  # repr: NaN is not itself
