"""The page and the raw results in the docs: one section per case, each with its own date and command.

The page is made from the JSON file alone. So one case can be measured again without the others.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, Final

from benchmarks import report, sections
from benchmarks.scale import report as scaling

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RAW: Final = "benchmarks.json"
PAGE: Final = "benchmarks.md"
SCALING: Final = "scaling.md"


class Book:
    """Results in a folder of docs.

    Args:
        folder: the folder.
        command: what was called, for the reader who wants to call it again.
    """

    def __init__(self, folder: Path, command: str) -> None:
        self._folder, self._command = folder, command
        raw = folder / RAW
        self.sections: dict[str, Any] = json.loads(raw.read_text()) if raw.exists() else {}

    def put(
        self,
        case: str,
        found: Mapping[str, Any],
        machine: Mapping[str, str],
        settings: Mapping[str, str],
    ) -> None:
        """Take a case's results in, in place of older ones, and write page, raw results and plot."""
        self.sections[case] = {
            "command": self._command,
            "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": dict(machine),
            "settings": dict(settings),
            "found": dict(found),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        raw = json.dumps(self.sections, indent=1, ensure_ascii=False)
        (self._folder / RAW).write_text(raw + "\n")
        if case == "transfer":
            report.plot(found, self._folder / report.PLOT)

    def write(self) -> Path:
        """Write the page from everything that was measured; return its path."""
        parts = [sections.page("head")]
        for case, render in sections.RENDERERS.items():
            section = self.sections.get(case)
            if section is not None:
                parts.append(f"{render(section['found'])}\n\n{_measured_on(section)}")
        self._write_scaling()
        page = self._folder / PAGE
        page.write_text("\n\n".join(parts).rstrip() + "\n")
        return page

    def _write_scaling(self) -> None:
        """Write the page about scaling, once everything is measured that its model rests on."""
        if any(case not in self.sections for case in scaling.NEEDED):
            return
        found = {case: self.sections[case]["found"] for case in scaling.NEEDED}
        text = sections.page("scaling", **scaling.values(found))
        measured = _measured_on(self.sections["scale"])
        (self._folder / SCALING).write_text(f"{text}\n\n{measured}\n")


def _measured_on(section: Mapping[str, Any]) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in section["machine"].items())
    settings = ", ".join(f"{name}={value}" for name, value in section["settings"].items())
    return (
        f"<sub>{section['date']} · `{section['command']}` · {machine} · "
        f"source and warehouse are two databases of one server · {settings}</sub>"
    )
