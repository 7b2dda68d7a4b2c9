"""List dated or non-technical English in the project: ``python -m tools.phrases [PATH…] [-v] [--advice]``.

Reports how often each phrase of PHRASES occurs per file and in total, in code, tests, docs and configs; ``-v`` prints
each line with the term to use instead, ``--advice`` adds the weaker hints of ADVICE. A list for authors, not a test:
the exit code is always 0. Identifiers count too (``told_by`` is read as "told by"), and a phrase may span two lines.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Iterator, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("*.py", "*.md", "*.cfg", "*.toml", "*.yaml", "*.yml", "*.in", "*.sh", "*.c", "Makefile", ".ci/run",
           "tools/setup", "tools/newer_slurm", "tools/gpu_check", "tests/project/promises.txt", "docs/*.txt")
SKIPPED = ("tools/phrases.py", "*/ecm_originals.py")  # this list itself; a verbatim copy of published code

# phrase (a regular expression over lower-case text, "_" read as a space), and what the field says
PHRASES = (
    # the table of terms
    (r"(?<!there )(?:is|are|was|were|be) no(?! (?:longer|more|less|fewer|larger|smaller|newer|older)\b)",
     "is not a …; does not exist"),
    (r"(?:il)?legal(?:ly)?", "valid; 'invalid X: …; expected …'"),
    (r"; give", "; expected …; use …"),
    (r"(?:cannot|could not) be made", "could not create"),
    (r"mend(?:s|ed|ing)?", "fix, repair"),
    (r"tak(?:e|es|en|ing) (?:it |them |that |this |one of them )?away|took away", "remove"),
    (r"pass(?:ed|es|ing)? over", "skipped"),
    (r"anew|afresh", "again; starting over; recreated"),
    (r"without a word|no word", "without recording a reason"),
    (r"heard", "no heartbeat; received"),
    (r"barren", "without progress"),
    (r"forgiv(?:e|es|en|ing)|forgave|pardon(?:s|ed|ing)?", "failure budget reset"),
    (r"(?:did|does|do) not come to|(?:come|comes|came|coming) to (?:its|an|the|their) ends?|has come to (?:it|its)",
     "not done yet; ends"),
    (r"for ever", "indefinitely; 'never hangs'"),
    (r"somebody", "a user, another process; or the passive: 'requeued manually'"),
    (r"overtak(?:e|es|en|ing)|overtook", "stale; superseded"),
    (r"told", "reported; recorded; derived"),
    (r"play(?:s|ed|ing)?", "assigned to; runs"),
    (r"let(?:s|ting)? (?:the |its )?signals? in", "unblock signals"),
    (r"too late(?= to| for|\b)", "stale; after the deadline"),
    (r"go(?:es|ing|ne)? on(?! record)|went on", "continue; resume"),
    (r"detections that count", "maximum detections"),
    (r"travel(?:s|led|ling|ed)?", "is sent; is pickled"),
    # the same kind of prose
    (r"former(?:ly)?", "previous; earlier"),
    (r"whoever|whomever|whosoever", "any user that; the process that"),
    (r"whatever", "any; regardless of"),
    (r"by (?:itself|themselves|himself)", "automatically; alone; in isolation"),
    (r"heed(?:s|ed|ing)?", "poll; obey"),
    (r"(?:lie|lies|lay|lain|lying) (?:in|on|at|there|beside|below|elsewhere|open|under|within|outside|where|behind)",
     "is in; is stored"),
    (r"(?:is|are|was|were) not there", "does not exist; is missing"),
    (r"that (?:is|are|was|were) there", "existing"),
    (r"for want of", "for lack of; without"),
    (r"but for|(?:all|everything|anything|nothing) but", "except; only"),
    (r"in the place of|in (?:its|their) stead", "instead of; replacing"),
    (r"to be had|(?:can|cannot|could|may) be had|be had", "available"),
    (r"at hand", "available; installed"),
    (r"word for word(?! in)", "verbatim"),
    (r"once more", "again"),
    (r"shall", "must; should; will"),
    (r"spoil(?:s|t|ed|ing)?", "corrupt"),
    (r"means? harm", "malicious"),
    (r"strangers?", "unauthenticated client"),
    (r"knows? (?:no|nothing|naught)(?! more)", "does not support; does not depend on"),
    (r"nothing of", "none of; does not use"),
    (r"(?:not|cannot|to) bear|bear with", "does not support; tolerate"),
    (r"speaks? of", "is about; refers to"),
    (r"stor(?:y|ies)", "timeline"),
    (r"leave(?:s)? off|left off|leaving off", "omit"),
    (r"tak(?:e|es|en|ing) along", "copies; includes"),
    (r"in vain|for naught|to no avail", "without effect"),
    (r"hitherto|whence|thence|thereof|therein|thereby|whereby|wherein|whereupon|herein|lest|nought|naught|unto|upon",
     "(archaic)"),
    (r"amongst|whilst|albeit|ere|betwixt|behold|fain|nigh|hark", "(archaic)"),
    (r"goes aside|go aside|went aside|put aside", "is renamed; is set aside"),
    (r"makes? an end of|put(?:s)? an end to|an end is made", "end; terminate"),
    (r"must needs|needs must|of (?:its|their) own accord", "must; on its own"),
    (r"as it were|so to speak|if so be", "(omit)"),
)

# usable English that has a better-known technical term in most places; shown with --advice
ADVICE = (
    (r"beside", "next to; in addition to"),
    (r"in (?:its|their) place", "instead"),
    (r"silence", "no progress; no heartbeat"),
    (r"figures?", "metrics; numbers"),
    (r"on record", "recorded"),
    (r"says? so", "reports it"),
    (r"looks? after|looked after", "monitors; manages"),
    (r"nobody", "no process; no user"),
    (r"nowhere", "in no place"),
    (r"spell(?:s|ed|ing)", "writes; contains; escapes"),
    (r"carried out", "applied; run"),
    (r"in (?:all|its) words|in words", "as text"),
    (r"made of|makes? of", "built from"),
    (r"cut short", "truncated; interrupted"),
    (r"for good", "permanently"),
    (r"in all(?! |$)|at all", "in total; (omit)"),
    (r"takes? over|taken over", "adopted"),
    (r"promis(?:e|es|ed)", "guarantee; expected digest"),
    (r"renew(?:s|ed|ing)?", "refresh; replace"),
    (r"stands?", "is; remains"),
    (r"of (?:its|their) own", "separate; own"),
    (r"what became of|becomes? of", "the result of"),
    (r"need not", "does not have to"),
    (r"begin|begins|began|begun", "start"),
    (r"remed(?:y|ies)", "fix"),
    (r"mistakes?", "error"),
    (r"ask(?:s|ed)? for", "request"),
    (r"it is (?:so|thus)", "(omit)"),
)

# classes and functions whose names the glossary replaces
NAMES = {
    "Place": "RankInfo", "Circle": "PeerGroup", "Door": "BlockServer", "Link": "BlockClient", "Bringing": "Copier",
    "Told": "StagingEvents", "Beat": "Heartbeat", "heed": "poll_signals", "print_story": "print_timeline",
    "story": "timeline", "_stand": "current_state", "has_answers": "says what is answered", "renew": "refresh",
    "_after_training": "says what is done", "barren_run": "attempts_without_progress", "pardoned": "budget_reset",
    "named": "says what is named", "promised": "expected_digest", "Weight": "WeightFile", "way": "scoring_variant",
    "alone": "run_lock", "lead": "signal_lead", "handover": "successor",
}


class Exempt(NamedTuple):
    """Uses of a phrase that stay: in files matching ``path``, on lines that match ``line``."""

    path: str
    phrase: str
    line: str
    reason: str


EXEMPT = (
    Exempt("ecm_cluster/pack/make.py", "former", "TMP_MARK", "the name of a temporary folder on disk"),
    Exempt("tests/*", "former", r"(ecm-cluster:former:|\"former: )", "the name of the run of these tests"),
    Exempt("*", "former", r"""["']former["']""", "a field of records on disk"),
    Exempt("tests/*", "former", r"runs/former|former: iter_", "the name of a run in data of an earlier version"),
    Exempt("*", "former", r"former_(version|run)", "names of tests of earlier versions, and of their data"),
    Exempt("*", "illegal", r"(?i)illegal (memory access|instruction|seek)", "CUDA's and the system's own messages"),
)


class Hit(NamedTuple):
    path: str
    number: int
    phrase: str
    instead: str
    line: str


def files(wanted: list[str]) -> list[Path]:
    """The project's text files, or those of them below the wanted paths."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard", *wanted], cwd=ROOT,
                            check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()
    return [ROOT / name for name in sorted(set(listed)) if any(fnmatch.fnmatch(name, p) for p in SOURCES)
            and not any(fnmatch.fnmatch(name, p) for p in SKIPPED) and (ROOT / name).is_file()]


def _plain(text: str) -> str:
    """The text with the same offsets, in which neither case, ``_`` nor the break of a comment or string matters."""
    joined = re.sub(r"""["']?[ \t]*\n[ \t]*(?:[#>*][ \t]*|[fr]{0,2}["'])?""", lambda m: " " * len(m[0]), text)
    return joined.lower().replace("_", " ")


def hits(path: Path, table: tuple[tuple[str, str], ...]) -> Iterator[Hit]:
    text = path.read_text(encoding="utf-8", errors="replace")
    plain, lines, name = _plain(text), text.splitlines(), path.relative_to(ROOT).as_posix()
    for pattern, instead in table:
        spaced = pattern.replace("(?<!there )", "(?<!there\0)").replace(" ", r"\s+").replace("\0", " ")
        start = "" if pattern.startswith(";") else r"\b"
        for found in re.finditer(rf"{start}(?:{spaced})\b", plain):
            number = text.count("\n", 0, found.start()) + 1
            line = lines[number - 1].strip() if number <= len(lines) else ""
            phrase = " ".join(found[0].split())
            if not any(phrase == e.phrase and fnmatch.fnmatch(name, e.path) and re.search(e.line, line)
                       for e in EXEMPT):
                yield Hit(name, number, phrase, instead, line)


def names(path: Path) -> Iterator[Hit]:
    """Definitions that carry a name which the glossary replaces."""
    text = path.read_text(encoding="utf-8", errors="replace")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name in NAMES:
            yield Hit(path.relative_to(ROOT).as_posix(), node.lineno, f"name {node.name}", NAMES[node.name],
                      text.splitlines()[node.lineno - 1].strip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", help="only these files and folders, relative to the checkout")
    parser.add_argument("-v", "--verbose", action="store_true", help="print each line, with the term to use")
    parser.add_argument("--advice", action="store_true", help="list the weaker hints, too")
    args = parser.parse_args()
    found: list[Hit] = []
    for path in files(args.paths):
        found += hits(path, PHRASES + (ADVICE if args.advice else ()))
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] != "tests":
            found += names(path)
    if args.verbose:
        for hit in sorted(found):
            print(f"{hit.path}:{hit.number}: {hit.phrase!r} -> {hit.instead}: {hit.line[:120]}")
    for title, counted in (("file", Counter(h.path for h in found)), ("phrase", Counter(h.phrase for h in found))):
        print(f"\nper {title}:")
        for name, count in counted.most_common():
            print(f"{count:6}  {name}")
    areas = Counter(h.path.split("/")[0] for h in found)
    print(f"\ntotal: {len(found)} in {len({h.path for h in found})} files "
          f"({', '.join(f'{area} {count}' for area, count in areas.most_common())})")


if __name__ == "__main__":
    main()
