"""Which trackers a job and its config ask for; hooks of mmcv and mmdet for the same services are served by them."""

from __future__ import annotations

import pytest

from ecm_cluster.base.errors import UserError
from ecm_cluster.job import job
from ecm_cluster.keycheck import keys, tracker_hooks

TEXT = {"type": "TextLoggerHook"}
BOARD = {"type": "TensorboardLoggerHook", "log_dir": "boards", "by_epoch": False}
WANDB = {"type": "mmdet.MMDetWandbHook", "interval": 25, "num_eval_images": 10, "log_checkpoint": True,
         "init_kwargs": {"project": "p", "resume": "allow", "id": "x", "sync_tensorboard": True, "mode": "dryrun"}}


def cfg(*hooks, **more):
    return {"data": {}, "log_config": {"interval": 50, "hooks": list(hooks)}, **more}


def test_hooks_become_trackers_with_their_options():
    found = tracker_hooks.asked(job.make({}), cfg(TEXT, BOARD, WANDB))
    assert found == {"tensorboard": {"interval": 50, "log_dir": "boards"},
                     "wandb": {"interval": 25, "project": "p", "mode": "offline"}}
    assert list(keys.unused(cfg(TEXT, BOARD, WANDB))) == [
        "log_config.hooks.2.num_eval_images", "log_config.hooks.2.log_checkpoint",
        "log_config.hooks.2.init_kwargs.sync_tensorboard"]


def test_a_hook_without_a_mode_means_wandbs_own_unless_the_environment_has_one(monkeypatch):
    bare = cfg(custom_hooks=[{"type": "WandbLoggerHook"}])
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert tracker_hooks.asked(job.make({}), bare) == {"wandb": {"interval": 50, "mode": "online"}}
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert tracker_hooks.asked(job.make({}), bare) == {}


def test_the_job_takes_precedence_over_keys_of_the_config_and_these_over_hooks():
    both = cfg(BOARD, WANDB, tracker_wandb={"project": "q", "entity": "e"}, tracker_tensorboard=False)
    found = tracker_hooks.asked(job.make({"trackers": {"wandb": {"project": "r"}}}), both)
    assert found == {"wandb": {"interval": 25, "project": "r", "entity": "e", "mode": "offline"}}
    assert tracker_hooks.asked(job.make({"trackers": {"wandb": False}}), both) == {}
    mine = job.make({"trackers": "tensorboard", "trainer": "a:b"})
    assert tracker_hooks.asked(mine, both) == {"tensorboard": {}}, "another trainer's config is its own business"
    with pytest.raises(UserError, match=r"config: tracker_wandb: option: 'projct' is unknown \(did you mean project\?"):
        tracker_hooks.asked(job.make({}), cfg(tracker_wandb={"projct": "q"}))


def test_without_the_hooks_a_log_is_left_that_feeds_the_trackers():
    given = cfg(BOARD, custom_hooks=[{"type": "EMAHook"}, WANDB])
    left = tracker_hooks.without(given)
    assert left["custom_hooks"] == [{"type": "EMAHook"}]
    assert left["log_config"] == {"interval": 50, "hooks": [{"type": "TextLoggerHook", "by_epoch": False}]}
    assert given["log_config"]["hooks"] == [BOARD], "the given one is unchanged"
    assert tracker_hooks.without(cfg(TEXT, WANDB))["log_config"]["hooks"] == [TEXT]
    assert tracker_hooks.without({"custom_hooks": [WANDB]})["log_config"] == {
        "interval": 25, "hooks": [{"type": "TextLoggerHook", "interval": 25}]}
    plain = cfg(TEXT, {"type": "MlflowLoggerHook"})
    assert tracker_hooks.without(plain) is plain


def test_hooks_for_other_services_are_named():
    found = dict(tracker_hooks.hooks(cfg(TEXT, {"type": "MlflowLoggerHook"}), tracker_hooks.SINGLE))
    assert list(found) == ["log_config.hooks.1"]


@pytest.mark.parametrize(("given", "kept"), [
    ("tensorboard, wandb", {"tensorboard": {}, "wandb": {}}), (["wandb"], {"wandb": {}}), ("", {}),
    ({"wandb": {"tags": ["a"], "interval": 5}}, {"wandb": {"tags": ["a"], "interval": 5}}),
    ({"wandb": True, "tensorboard": None}, {"wandb": {}, "tensorboard": {}})])
def test_the_job_key_is_words_or_a_mapping(given, kept):
    assert job.make({"trackers": given}).trackers == kept


@pytest.mark.parametrize(("given", "text"), [
    ("tensorbord", r"trackers: tracker: 'tensorbord' is unknown \(did you mean tensorboard\?\)"),
    (3, "trackers: invalid value 3; expected tensorboard, wandb or both, or a mapping of these to their options"),
    ({"wandb": {"mode": "of"}}, r"trackers: wandb: mode: 'of' is unknown; expected one of: offline, online"),
    ({"wandb": {"interval": 0}}, "trackers: wandb: interval: invalid value 0; expected a whole number"),
    ({"wandb": {"tags": "a"}}, "trackers: wandb: tags: invalid value 'a'; expected a list of words"),
    ({"wandb": 3}, "trackers: wandb: invalid value 3; expected a mapping of options, or true or false"),
    ({"wandb": {"api_key": "s3cret"}}, "trackers: wandb: api_key would be readable in the run; use WANDB_API_KEY"),
    ({"tensorboard": {"log_dir": "a\nb"}}, "trackers: tensorboard: log_dir: invalid value")])
def test_invalid_values_are_refused_in_one_line(given, text):
    with pytest.raises(UserError, match=text) as caught:
        job.make({"trackers": given})
    assert "\n" not in str(caught.value) and "s3cret" not in str(caught.value)


def test_files_and_flags_are_merged_option_by_option(tmp_path, monkeypatch):
    site, file = tmp_path / "site.yaml", tmp_path / "job.yaml"
    site.write_text("trackers: {wandb: {entity: lab, project: a}, tensorboard: {}}\n")
    file.write_text("trackers: {wandb: {project: b}, tensorboard: false}\n")
    monkeypatch.setenv("ECM_CLUSTER_SITE", str(site))
    merged = job.load(str(file), {"trackers": {"wandb": {}}}).trackers
    assert merged == {"wandb": {"entity": "lab", "project": "b"}, "tensorboard": False}
