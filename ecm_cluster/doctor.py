"""Look over this cluster and environment, and say line by line what is ok, what is doubtful, and what fails."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from .console import cli
from .job import job as jobs
from .job.flags import add_flags, given_flags

EPILOG = """examples:
  python -m ecm_cluster.doctor
  python -m ecm_cluster.doctor jobs/r50_1x.yaml --partition preempt --node
  python -m ecm_cluster.doctor --nodes 2 --node
  python -m ecm_cluster.doctor --cluster local --json

exit code: 0 if nothing fails, 1 if something does, 2 for bad input
"""
IMPORT_SECONDS = 11.0  # limit for importing the framework here


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.doctor", description=__doc__, epilog=EPILOG)
    made.add_argument("job", nargs="?", metavar="JOB", help="job file, or its name in jobs/ (default: ECM, R50, 1x)")
    made.add_argument("--cluster", choices=("slurm", "local"), default="slurm",
                      help="slurm, or local: this machine, without Slurm (default: slurm)")
    made.add_argument("--node", action="store_true", help="also submit a short job and check its nodes (with "
                      "--cluster local: this machine); --nodes 2: the network between two")
    made.add_argument("--patience", type=float, default=30.0, metavar="MINUTES",
                      help="minutes that the job of --node may wait in the queue (default: 30)")
    made.add_argument("--json", action="store_true", help="print JSON")
    made.add_argument("--notify", action="store_true", help="also send a test message to each URL of the key notify")
    add_flags(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from .backends import choose
    from .console import shell
    from .diagnosis import asked as asking
    from .diagnosis import finding

    queues = choose.by_name(args.cluster).queues
    job = jobs.load(args.job, given_flags(args), shell.defaults(os.environ) if queues else None)
    asked = asking.read(job, args.cluster, bool(args.job or args.config))
    found = list(findings(asked, queues, args))
    if args.json:
        print(json.dumps({"summary": finding.summary(found), "findings": [one.as_dict() for one in found]}, indent=1))
    else:
        cli.say(f"{finding.page(found)}\n\n{finding.summary(found)}")
    return cli.EXIT_FAILED if any(one.state == finding.FAILS for one in found) else cli.EXIT_OK


def findings(asked: Any, queues: bool, args: argparse.Namespace) -> Iterator[Any]:
    """All findings, in the order of the page."""
    from .diagnosis import asked as asking
    from .diagnosis import environment, on_nodes, storage
    from .diagnosis.finding import carried_out, not_asked
    from .staging import planned

    # these are slow and may hang: they are started first, and waited for last
    scratch = None if queues else planned.scratch_of(planned.plan(asked.job, None), os.environ)
    looks = storage.Looks({**asked.folders(), **({} if scratch is None else {"scratch": scratch})})
    started = environment.ask_job(asked)
    silence = _silence(queues)
    if silence:
        yield not_asked("slurm.controller", silence)
    else:
        yield from carried_out("slurm.controller", lambda: of_slurm(asked))
    yield from carried_out("environment", environment.here)
    yield from carried_out("job", lambda: asking.check(asked))
    yield from carried_out("job.python", lambda: environment.of_job(asked, started, IMPORT_SECONDS))
    yield from carried_out("folder", lambda: looks.findings(asking.only_read(asked)))
    yield from carried_out("quota", lambda: storage.quotas(asked))
    yield from carried_out("notify", lambda: of_notices(asked, args.notify))
    if not args.node:
        yield not_asked("node.job", "--node shows whether nodes see these folders, and what they have")
    elif queues and silence:
        yield not_asked("node.job", silence)
    else:
        yield from carried_out("node.job", lambda: on_nodes.visit(asked, args.patience))


def of_slurm(asked: Any) -> Iterator[Any]:
    """What Slurm reports, and what that means for the job."""
    from .diagnosis import limits, slurm
    from .diagnosis.finding import carried_out

    answered = slurm.ask(asked)
    yield from carried_out("slurm", lambda: slurm.check(asked, answered))
    yield from carried_out("limits", lambda: limits.check(asked, answered))


def of_notices(asked: Any, test: bool) -> Iterator[Any]:
    """Whether messages can be sent to each URL of the key ``notify``; with ``test`` one is."""
    from .base.errors import UserError
    from .diagnosis.finding import fails, ok
    from .job.notify_options import scheme
    from .notices import urls

    where = asked.job.notify.get("urls", ())
    if test and not where:
        yield fails("notify", "--notify: no URL is given", "set the key notify in the job file or the site file")
    for number, url in enumerate(where, 1):
        name, service = f"notify.{number}", scheme(url)
        try:
            urls.check([url])
        except UserError as error:
            yield fails(name, str(error).replace("URL 1", f"URL {number}"), "correct the key notify")
            continue
        outcome = urls.send(url, "ecm-cluster: test", "A test message of the doctor.") if test else None
        if outcome is not None and outcome.state != "sent":
            yield fails(name, f"the test message to {service} was not sent: {outcome.why}",
                        "check the URL, and whether this machine reaches the service")
        else:
            what = "a test message was sent" if test else "valid; --notify sends a test message"
            yield ok(name, f"{service}: {what}")


def _silence(queues: bool) -> str:
    from .slurm import site

    if not queues:
        return "--cluster local runs without Slurm"
    reason = site.silence()
    return f"Slurm is not reachable: {reason}" if reason else ""


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
