"""The trackers that a run can feed, and their options: job key ``trackers``, or ``tracker_NAME`` in a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.errors import UserError, one_of, shown
from .option import PATH, TEXT, Option, Reader, choice, whole

CONFIG_KEY = "tracker_"  # in front of a tracker's name: its options at the top level of a config
OFFLINE, ONLINE, DISABLED = MODES = ("offline", "online", "disabled")
_EVERY = Option(whole(1), "iterations between two points, where the log has more", 1)


def _words(value: Any) -> list[str]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(value)
    return list(map(TEXT.read, value))


TRACKERS: dict[str, dict[str, Option]] = {
    "tensorboard": {
        "interval": _EVERY,
        "log_dir": Option(PATH, "directory that gets one for the run; default: trackers/tensorboard in the run", None),
    },
    "wandb": {
        "interval": _EVERY,
        "project": Option(TEXT, "project; default: $WANDB_PROJECT, or ecm-cluster", None),
        "entity": Option(TEXT, "user or team", None),
        "name": Option(TEXT, "name; default: the run's", None),
        "group": Option(TEXT, "group", None),
        "job_type": Option(TEXT, "type of job", None),
        "notes": Option(TEXT, "notes", None),
        "tags": Option(Reader("a list of words", _words), "tags", None),
        "mode": Option(choice(*MODES), "default: $WANDB_MODE, or offline", None),
    },
}


def read(given: Any) -> dict[str, Any]:
    """Trackers by name, each with its options; False: not this one, even if the config names it.

    Args:
        given: A mapping, a list of names, or names with commas between them.

    Raises:
        UserError: A name or an option is unknown, or a value is invalid.
    """
    if isinstance(given, str):
        given = [word.strip() for word in given.split(",") if word.strip()]
    if isinstance(given, list):
        given = {name: {} for name in given}
    if not isinstance(given, Mapping):
        raise ValueError(given)
    return {name: checked(name, options) for name, options in given.items()}


def checked(name: Any, options: Any, where: str = "") -> Any:
    """The options of one tracker.

    Raises:
        UserError: As in :func:`read`.
    """
    if name not in TRACKERS:
        raise one_of("tracker", name, TRACKERS)
    if options is None or isinstance(options, bool):
        return {} if options is not False else False
    where = where or f"{name}: "
    if not isinstance(options, Mapping):
        raise UserError(f"{where}invalid value {shown(options)}; expected a mapping of options, or true or false")
    for key in options:
        if key == "api_key":
            raise UserError(f"{where}api_key would be readable in the run; use WANDB_API_KEY in env, or run `wandb "
                            "login`")
        if key not in TRACKERS[name]:
            raise one_of(f"{where}option", key, TRACKERS[name])
    return {key: TRACKERS[name][key].read(f"{where}{key}", value) for key, value in options.items()}


def laid_over(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Trackers from two places, the second of which takes precedence, option by option."""
    def merged(name: str) -> Any:
        options = new.get(name, old.get(name))
        return options if options is False else {**(old.get(name) or {}), **options}

    return {name: merged(name) for name in {**old, **new}}


READER = Reader("tensorboard, wandb or both, or a mapping of these to their options", read)
