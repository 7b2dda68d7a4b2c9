"""uv at its pinned version, in a folder of its own under the user's cache."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .basics import CACHE, ROOT, TAG, SetupError, Stack, say, wheelhouse_folder


def _home(stack: Stack) -> Path:
    return CACHE / f"uv-{stack.pinned('uv')}-{TAG}-{platform.machine()}"


def missing(stack: Stack) -> dict[str, str]:
    """What installing uv would lack here, with the Debian package that has it; empty if it is installed.

    Debian's python3.11 comes without ensurepip (which python3.11-venv has) and without pip (python3-pip);
    either will do.
    """
    if (_home(stack) / "bin" / "uv").exists() or _has_module("ensurepip") or _has_module("pip"):
        return {}
    return {f"venv for {sys.executable}": f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"}


class Uv:
    """Runs uv, which is installed first if this user has none of the pinned version."""

    def __init__(self, stack: Stack) -> None:
        home = _home(stack)
        if not (home / "bin" / "uv").exists():
            _install(home, stack.pinned("uv"))
        self.executable = str(home / "bin" / "uv")
        own = home / "bin" / "python"
        self.environment = {**os.environ, **_pip_settings(str(own if own.exists() else sys.executable))}
        self.environment["UV_PYTHON_DOWNLOADS"] = "never"
        if wheelhouse := wheelhouse_folder():
            self.environment["UV_FIND_LINKS"] = str(wheelhouse)

    def run(self, *args: str) -> None:
        """Run one command of uv, which prints its own progress.

        Raises:
            SetupError: It failed; its own lines, just above, name the package.
        """
        rc = subprocess.run([self.executable, *args], env=self.environment, cwd=ROOT).returncode
        if rc:
            raise SetupError(f"uv {' '.join(args[:2])} ended with {rc}: its lines above say why; without a "
                             "network, name a folder that holds every wheel in ECM_CLUSTER_WHEELHOUSE")


def _install(home: Path, version: str) -> None:
    say(f"installing uv {version} into {home}")
    tmp = Path(tempfile.mkdtemp(dir=CACHE, prefix=".uv-"))
    what = ["--quiet", "--disable-pip-version-check", "--no-input", f"uv=={version}"]
    if wheelhouse := wheelhouse_folder():
        what = ["--find-links", str(wheelhouse), *what]
    try:
        if _has_module("ensurepip"):
            _call([sys.executable, "-m", "venv", str(tmp)])
            _call([str(tmp / "bin" / "python"), "-m", "pip", "install", *what])
        else:
            _call([sys.executable, "-m", "pip", "install", "--target", str(tmp), *what])
        shutil.rmtree(home, ignore_errors=True)
        tmp.rename(home)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _has_module(name: str) -> bool:
    return subprocess.run([sys.executable, "-m", name, "--version"], capture_output=True).returncode == 0


def _call(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.stderr.write(done.stdout)
        raise SetupError(f"{shlex.join(command[:4])} failed: its lines above say why")


def _pip_settings(python: str) -> dict[str, str]:
    """The index and certificates that pip is configured with, for uv, which does not read pip's settings."""
    said = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    found = {m[1]: m[2] for m in re.finditer(r"^[\w:]+\.(index-url|cert)='(.*)'$", said, re.M)}
    settings = {}
    if "index-url" in found and not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & set(os.environ):
        settings["UV_DEFAULT_INDEX"] = found["index-url"]
    if "cert" in found and "SSL_CERT_FILE" not in os.environ:
        settings["SSL_CERT_FILE"] = found["cert"]
    return settings
