"""Shell lines that put each start of a job on record, and help a start that cannot work; they need no Python.

A start has its own file in the run directory: a JSON line when it begins, and one when it ends or cannot continue. A
node that does not see the run directory can record nothing: there the shell has Slurm start the job elsewhere, and the
next start finds that one is missing.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..attempts.starts import NODE_LIMIT
from ..base import processes
from ..rundir.run import Run

LOOKS = 3  # for the run directory, a second apart: a node that has just booted may still mount it

NOTES = r"""ecm_phase=setup ecm_line= ecm_first=0 ecm_depth=${#BASH_SOURCE[@]} step_code=
ecm_start=$ecm_starts/$ecm_job.$ecm_restart.json
ecm_note() { # KIND FIELDS: a line of this start's file; FIELDS are further JSON, with a comma before each
  mkdir -p "${ecm_start%/*}" && printf '{"kind": "%s", "stage": "%s", "host": "%s", "nodes": "%s", "date": "%s"%s}\n' \
    "$1" "$ecm_link" "$ecm_node" "${SLURM_JOB_NODELIST:-$ecm_node}" "$(date +%FT%T%z)" "$2" >> "$ecm_start"
}
ecm_failed() { # CODE LINE DEPTH: a line of `setup` failed; what fails within a sourced file is that file's affair
  [ "$3" -gt "$ecm_depth" ] || { ecm_line=$(($2 - ecm_first + 1)); exit "$1"; }
}"""

ELSEWHERE = r"""ecm_count() { case $1 in ""|"(null)") echo 0;; *) scontrol show hostnames "$1" | wc -l;; esac; }
ecm_elsewhere() { # have Slurm start this job on other nodes, if it is still this start's and few are left out so far
  local record out
  record=" $(scontrol -o show job "$ecm_job") "
  case $record in *" JobState=RUNNING "*) ;; *) return 1;; esac
  case $record in *" Restarts=$ecm_restart "*) ;; *) return 1;; esac
  out=${record#* ExcNodeList=} out=${out%% *}
  [ $(($(ecm_count "$out") - $(ecm_count "$ecm_exclude"))) -lt $ecm_limit ] || return 1
  case $out in "(null)") out=$ecm_node;; *) out=$out,$ecm_node;; esac
  scontrol requeue "$ecm_job" || return 1
  # without it the job would come back to this node again and again
  scontrol update JobId="$ecm_job" ExcNodeList="$out" || scontrol hold "$ecm_job"
}"""

OPENING = r"""for ecm_look in {looks}; do [ -e "$ecm_run/{mark}" ] && break; sleep 1; done
if [ ! -e "$ecm_run/{mark}" ]; then
  echo "$ecm_node does not see $ecm_run" >&2
  trap '' TERM
  ecm_elsewhere
  exit 1
fi
# what is stored there would be run; a file server that calls this user by another number does so for a new file, too
if [ ! -O "$ecm_run" ]; then
  ecm_new=$(mktemp -p "$ecm_run")
  ecm_owner=$(stat -c %u "${{ecm_new:-/}}")
  rm -f "$ecm_new"
  if [ -z "$ecm_new" ] || [ "$ecm_owner" != "$(stat -c %u "$ecm_run")" ]; then
    echo "$ecm_run belongs to another user; nothing in it is run" >&2
    exit 1
  fi
fi
ecm_log=$ecm_tasks/${{ecm_job}}_0_log.out
mkdir -p "${{ecm_log%/*}}" && {{ : >> "$ecm_log"; }} && exec >> "$ecm_log" 2>&1
ecm_note begin"""

# The trap has KillWait seconds when the job is being ended, and no limit when only its tasks are.
AFTER = r"""ecm_after() {
  local code=$? python
  trap '' TERM # a second one must not end it half-way
  trap - ERR
  ecm_note end ", \"phase\": \"$ecm_phase\", \"code\": ${step_code:-$code}${ecm_line:+, \"line\": $ecm_line}"
  for ecm_each in "$ecm_python" ${ecm_stand_in:+"$ecm_stand_in"}; do
    PYTHONPATH=$ecm_path${PYTHONPATH:+:$PYTHONPATH} "$ecm_each" -m {epilog} \
      "$ecm_run" "$ecm_link" "${step_code:-none}" && { ecm_note left; return; }
    python=$?
    [ $python -ge 126 ] || break # 126, 127: this shell cannot start it
  done
  echo "$(date +%FT%T) job $SLURM_JOB_ID restart $ecm_restart code ${step_code:-none}" >> "$ecm_batch_log"
  # Python cannot run here, so this shell decides: not for work that is done or cancelled
  ecm_note no-python ", \"code\": $python"
  [ "${step_code:-1}" = 0 ] || [ -e "$ecm_run/{cancelled}" ] || ecm_elsewhere
  ecm_note left
}
trap ecm_after EXIT"""


def on_slurm(run: Run, link: str, python: str, path: str, exclude: str | None,
             stand_in: str | None = None) -> list[str]:
    """Lines of a batch script before the user's own.

    Args:
        python: The interpreter on the compute nodes.
        path: What its PYTHONPATH begins with.
        exclude: Nodes that the job leaves out from the beginning.
        stand_in: The interpreter for this shell where ``python`` may be in a container that tasks alone are in.
    """
    opening = OPENING.format(looks=" ".join(map(str, range(LOOKS))), mark=run.run_file.name)
    return [
        *_names(run, link),
        f"ecm_limit={NODE_LIMIT} ecm_tasks={shlex.quote(str(run.submitit_dir))}",
        f"ecm_batch_log={shlex.quote(str(run.batch_log))}",
        f"ecm_exclude={shlex.quote(exclude or '')} ecm_python={shlex.quote(python)} ecm_path={shlex.quote(path)}",
        f"ecm_stand_in={shlex.quote(stand_in or '')}",
        "ecm_job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}",
        "ecm_restart=${SLURM_RESTART_COUNT:-0} ecm_node=${SLURMD_NODENAME:-$HOSTNAME}",
        *NOTES.splitlines(), *ELSEWHERE.splitlines(), *opening.splitlines(),
        *AFTER.replace("{cancelled}", run.cancel_file.name).replace(
            "{epilog}", processes.module("batch-shell epilog", run.code_dir)).splitlines(),
    ]


def before_srun() -> list[str]:
    """Lines behind the user's own, which may have set an EXIT trap.

    A bash that SIGTERM ends runs its EXIT trap with ``$?`` 0, even while srun runs, so srun's own code is kept.
    """
    return [
        'srun() { ecm_phase=step; command srun "$@" && step_code=0 || step_code=$?; return "$step_code"; }',
        "trap ecm_after EXIT",
    ]


def on_this_machine(run: Run, link: str) -> list[str]:
    """The same for the script that becomes the local driver."""
    return [
        *_names(run, link),
        "ecm_job=$$ ecm_restart=0 ecm_node=$HOSTNAME",
        *NOTES.splitlines(),
        'trap \'ecm_note end ", \\"phase\\": \\"setup\\", \\"code\\": $?${ecm_line:+, \\"line\\": $ecm_line}"\' EXIT',
    ]


def _names(run: Run, link: str) -> list[str]:
    return [f"ecm_run={shlex.quote(str(run.path))} ecm_link={shlex.quote(link)}",
            f"ecm_starts={shlex.quote(str(run.starts_dir))}"]


def guarded(lines: Sequence[str]) -> list[str]:
    """The user's ``setup`` lines, of which the first that fails ends the start."""
    if not lines:
        return []
    return ["trap 'ecm_failed $? $LINENO ${#BASH_SOURCE[@]}' ERR; ecm_first=$((LINENO + 1))", *lines, "trap - ERR"]
