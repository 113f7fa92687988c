"""What a peer is, and how one that has dependencies of its own is installed."""

from __future__ import annotations

import os
import subprocess
import venv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import platformdirs

from benchmarks import table
from benchmarks.measure import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from benchmarks.servers import Bench

INSTALL_SECONDS: Final = 600.0
PROBE_SECONDS: Final = 120.0


class NotInstalledError(RuntimeError):
    """A peer could not be installed, or does not run; the message says why."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A set of packages that a peer can be installed from.

    Attributes:
        requirements: for pip.
        note: what a reader must know when it was this one that could be used.
    """

    requirements: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """One other way to move the rows.

    Attributes:
        name: short, for the table.
        words: how it is used.
        function: what runs in a child process, ``module:name``.
        arguments: makes its arguments.
        share: the share of the rows that it moves, because it is slow.
        candidates: what to install it from, the first that works; empty when it needs nothing more
            than this package's own environment.
        probe: a command of the peer that shows that it runs, by its program's name.
        target: the table it fills; another one than ours it makes itself.
    """

    name: str
    words: str
    function: str
    arguments: Callable[[Bench, int], Mapping[str, Any]]
    share: float = 1.0
    candidates: tuple[Candidate, ...] = ()
    probe: tuple[str, ...] = ()
    target: str = table.TARGET


@dataclass(frozen=True, slots=True)
class Installed:
    """A peer that runs.

    Attributes:
        python: the interpreter of its environment; None for this one.
        note: its version, and what to know about it.
    """

    python: Path | None = None
    note: str = ""


def install(peer: Peer, folder: Path | None = None) -> Installed:
    """Make the peer's own virtual environment, or use the one of an earlier run.

    Args:
        peer: the peer.
        folder: where environments are kept; a cache folder of the user when left out.

    Raises:
        NotInstalledError: no candidate could be installed and run.
    """
    if not peer.candidates:
        return Installed()
    folder = folder or platformdirs.user_cache_path("checkpoint-etl-benchmarks")
    reasons = []
    for candidate in peer.candidates:
        name = "-".join(
            "".join(c if c.isalnum() else "_" for c in r) for r in candidate.requirements
        )
        home = folder / name
        try:
            _make(home, candidate)
            _probe(home, peer)
        except (subprocess.SubprocessError, OSError) as error:
            reasons.append(f"{candidate.requirements[0]}: {_reason(error)}")
            continue
        note = f"{peer.name} {_version(home, candidate)}"
        return Installed(
            home / "bin" / "python", f"{note}; {candidate.note}" if candidate.note else note
        )
    raise NotInstalledError("; ".join(reasons))


def _make(home: Path, candidate: Candidate) -> None:
    done = home / "installed"
    if done.exists():
        return
    venv.create(home, with_pip=True, clear=True)
    _run(
        [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *candidate.requirements],
        INSTALL_SECONDS,
    )
    done.touch()


def _probe(home: Path, peer: Peer) -> None:
    if peer.probe:
        program, *arguments = peer.probe
        _run([str(home / "bin" / program), *arguments], PROBE_SECONDS)


def _version(home: Path, candidate: Candidate) -> str:
    package = candidate.requirements[0].partition("==")[0].partition("[")[0]
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return _run([str(home / "bin" / "python"), "-c", code], PROBE_SECONDS).strip()


def _run(command: list[str], seconds: float) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=True,
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.stdout


def _reason(error: Exception) -> str:
    """The last line that a failed command said, without the places that it tried."""
    said = getattr(error, "stderr", None) or str(error)
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line] or lines
    last = errors[-1] if errors else type(error).__name__
    return " ".join(word for word in last.split() if "://" not in word and "/" not in word)[:160]
