"""What the dataset, the model and hooks hold beside a ``state_dict``, and change: into a checkpoint and back.

A hook may change at some epoch what no ``state_dict`` holds: YOLOX's turns augmentations off through
``runner.data_loader.dataset`` and sets ``use_l1`` on a head, others set a scale, an interval, or ``requires_grad``. A
model does so in a forward pass: YOLOX counts them, Dynamic R-CNN keeps a history of overlaps. Kept are:

- *Plain values* (:mod:`.values`) in attributes of the dataset with its transforms, of the model's modules, and of hooks
  with their helpers: those that differ from a freshly built one are part of a checkpoint.
- *Other parts*, as a pipeline or a loss that a hook replaces, or a group that it adds to the optimizer: the call
  that did it is on record, and is made again with the same epoch and iteration when the training is resumed.

Named and not kept: tensors that are not in the model's ``state_dict``, containers of more than :data:`.plain.LIMIT`
values, and other data. Not covered: what differs between ranks outside the model (rank 0's values are kept), and
changes by a hook of mmcv's own, which keep their state otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from mmdet.core.bbox.assigners import BaseAssigner
from mmdet.core.bbox.samplers import BaseSampler

from .values import (
    CONTAINERS,
    DATA,
    OBJECT,
    PLAIN,
    Found,
    Path,
    Values,
    is_small,
    is_walkable,
    origin,
    paths_of_objects,
    structure,
)

FRAMEWORK = ("mmcv", "mmdet", "mmdet_ext", "ecm_cluster")


def fingerprint(dataset: Any) -> Any:
    """What tells a dataset from itself after a hook has changed it."""
    return Values(dataset).built, structure(dataset)


def _modules(model: torch.nn.Module) -> list[int]:
    return [id(module) for module in model.modules()]


def _groups(optimizer: Any) -> list[Any]:
    """What an optimizer is, and how many parameters are in each of its groups."""
    return [(id(one), [len(group["params"]) for group in one.param_groups])
            for one in (optimizer.values() if isinstance(optimizer, dict) else [optimizer])]


def _is_helper(value: Any) -> bool:
    """Whether an object that a hook refers to may be its own; the runner, a logger or a timer is not."""
    if not is_walkable(value) or isinstance(value, torch.nn.parallel.DistributedDataParallel):
        return False
    return isinstance(value, (*CONTAINERS, torch.nn.Module)) or origin(value) not in FRAMEWORK


def _changes_in_forward_passes(value: Any) -> bool:
    """Whether an object may come to hold something else for each rank."""
    if isinstance(value, torch.nn.Module):
        return bool(value._modules) or origin(value) not in ("torch", "mmcv")
    return isinstance(value, (list, BaseAssigner, BaseSampler))


class Attributes(Values):
    """What forward passes change in a model: plain attributes of modules, and of their assigners and samplers.

    Layers of torch's and mmcv's own are not looked into.

    Args:
        model: The model itself, not its wrapper, as it was built.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model, _changes_in_forward_passes)

    def walk(self, foreign: Collection[int] = ()) -> Found:
        """Everything inside, as of now; modules that a hook has added count as well."""
        found = [(path, part, kind) for path, part, kind in super().walk()
                 if kind is OBJECT or (kind is PLAIN and path[-1][0] == "attribute")]
        self.objects = paths_of_objects(found)
        return found

    def by_name(self) -> dict[str, Any]:
        """What has changed, by ``holder:attribute`` as checkpoints name it."""
        return {_holder(path[:-1]) + str(path[-1][1]): value for path, value in self.changed().items()}

    def put_by_name(self, values: Mapping[str, Any]) -> None:
        """Set what :meth:`by_name` returned, and put everything else back to what it was at first."""
        found = self.walk()
        holders = {_holder(path): path for path in self.objects}  # of a list and its first item: the item
        named = ((*name.rpartition(":"), value) for name, value in values.items())
        self.put({(*holders[holder + colon], ("attribute", key)): value
                  for holder, colon, key, value in named if holder + colon in holders}, found=found)


def _holder(path: Path) -> str:
    alone = bool(path) and path[-1][0] == "attribute"  # an assigner that is in no list
    return ".".join([*(str(name) for _, name in path), *["0"] * alone]) + ":"


class Effects:
    """The changes that hooks have made since everything was built.

    Args:
        dataset: The training set, as hooks reach it.
        model: The detector itself.
        hooks: Those whose calls are watched, by a name that is the same in every attempt.

    Attributes:
        unkept: What the newest state lacks of the data that has changed, by its dotted name.
    """

    def __init__(self, dataset: Any, model: torch.nn.Module, hooks: Mapping[str, Any]) -> None:
        self.dataset, self.model = dataset, model
        self.names = {id(hook): name for name, hook in hooks.items()}
        self.values = {"dataset": Values(dataset), "model": Values(model)}
        foreign = {id(part) for _, found in self._walks() for _, part, _ in found} | {id(dataset), id(model)}
        self.values.update({f"hook {name}": Values(hook, _is_helper, foreign) for name, hook in hooks.items()})
        self.calls: list[list[Any]] = []
        self.unkept: list[str] = []

    def watch(self, hook: Any, event: str, runner: Any, call: Callable[[Any], None]) -> None:
        """Make a hook's call, and put it on record where it has replaced parts of dataset, model or optimizer."""
        name = self.names.get(id(hook))
        if name is None:
            call(runner)
            return
        # all of a model takes milliseconds, which is much for each iteration: there its modules must do
        parts = structure if event.endswith("_epoch") else _modules
        before = structure(self.dataset), parts(self.model), _groups(runner.optimizer)
        call(runner)
        if before != (structure(self.dataset), parts(self.model), _groups(runner.optimizer)):
            begun = runner.position if event == "before_train_epoch" else 0  # in a resumed epoch
            inner = 0 if event.endswith("_epoch") else runner._inner_iter
            self.calls.append([name, event, runner._epoch, runner._iter - begun, inner])
            self._take_up_parts()

    def _take_up_parts(self) -> None:
        """Parts that a hook has made will be there in every attempt: what changes in them counts."""
        for root in ("dataset", "model"):
            self.values[root].objects.update(paths_of_objects(self.values[root].walk()))

    def _walks(self) -> Iterator[tuple[str, Found]]:
        """(root, what is in it) of each; a hook's without what is the dataset's or the model's."""
        foreign = {id(self.dataset), id(self.model)}
        for name, values in self.values.items():
            of_hook = name.startswith("hook ")
            yield name, (found := values.walk(foreign if of_hook else ()))
            foreign |= set() if of_hook else {id(part) for _, part, kind in found if kind is not PLAIN}

    def state(self) -> dict[str, Any]:
        """What :meth:`put_back` needs; plain values only."""
        weights = {id(tensor) for tensor in self.model.state_dict(keep_vars=True).values()}
        changed: list[Any] = []
        unkept: list[Any] = []
        names: dict[str, None] = {}
        for root, found in self._walks():
            values = self.values[root]
            changed += [[root, _listed(path), value] for path, value in values.changed(found).items()]
            for path, part in values.unkept(found).items():
                was_plain = path in values.built
                if was_plain:
                    unkept.append([root, _listed(path)])
                if _is_lost(part, was_plain, root.startswith("hook "), weights):
                    names[_title(root, path)] = None
        self.unkept = list(names)
        return {"values": changed, "calls": [list(call) for call in self.calls], "unkept": unkept}

    def call_again(self, calls: Iterable[Sequence[Any]], runner: Any) -> None:
        """Make calls on record again, each with the runner's counters as they were."""
        self.calls = [list(call) for call in calls]
        hooks = {name: self.values[f"hook {name}"].root for name in self.names.values()}
        counters = runner._epoch, runner._iter, runner._inner_iter
        try:
            for name, event, *at in self.calls:
                if name in hooks:
                    runner._epoch, runner._iter, runner._inner_iter = at
                    getattr(hooks[name], event)(runner)
        finally:
            runner._epoch, runner._iter, runner._inner_iter = counters
        if self.calls:
            self._take_up_parts()

    def put_back(self, state: Mapping[str, Any]) -> list[str]:
        """Set the plain values to those of a state, and all others to what they were built with.

        Returns:
            What does not exist any more, by its dotted name.
        """
        wanted: dict[str, dict[Path, Any]] = {root: {} for root in self.values}
        for root, path, value in state.get("values", ()):
            wanted.setdefault(root, {})[_path(path)] = value
        # what had come to hold more than a plain value is as the hook recreates it
        spared = {(root, _path(path)) for root, path in state.get("unkept", ())}
        gone = []
        for root, values in wanted.items():
            missing = self.values[root].put(values, {path for at, path in spared if at == root}) \
                if root in self.values else list(values)
            gone += [".".join([root, *(str(name) for _, name in path)]) for path in missing]
        return gone


def _listed(path: Path) -> list[list[Any]]:
    return [list(step) for step in path]


def _path(listed: Sequence[Sequence[Any]]) -> Path:
    return tuple((kind, name) for kind, name in listed)


def _is_lost(part: Any, was_plain: bool, of_hook: bool, weights: Collection[int]) -> bool:
    """Whether something that has changed is data of which no checkpoint holds anything."""
    if isinstance(part, torch.Tensor):
        # a module's non-leaf tensors belong to its forward pass
        return id(part) not in weights and (of_hook or part.is_leaf)
    if of_hook or was_plain:
        return isinstance(part, DATA) or (of_hook and _is_helper(part))
    # parts that were replaced are made again, and their contents are examined separately
    return isinstance(part, DATA) and not is_small(part)


def _title(root: str, path: Path) -> str:
    """The attribute that holds it: of a hook itself, else the innermost one."""
    ends = [at for at, (kind, _) in enumerate(path, 1) if kind == "attribute"] or [len(path)]
    return ".".join([root, *(str(name) for _, name in path[:ends[0 if root.startswith("hook ") else -1]])])
