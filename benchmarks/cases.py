"""What is measured of the chain: a table of cases. To add one, add a few lines to ``CASES``.

A case that uses what the installed version does not offer is skipped and reported with the reason.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import airflow_checkpoint_etl as package

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a case.

    Attributes:
        stage: what it is called in the table.
        operator: the operator's class, by its public name.
        options: the operator's own options.
    """

    stage: str
    operator: str
    options: Mapping[str, Any] = field(default_factory=dict)


EXTRACT: Final = Task("extract", "CheckpointExtractOperator")
LOAD: Final = Task("load", "CheckpointLoadOperator")


def transform(**options: Any) -> Task:
    """The transform with these options."""
    return Task("transform", "CheckpointTransformOperator", options)


@dataclass(frozen=True, slots=True)
class Case:
    """One way to run the chain.

    Attributes:
        name: short, for the table and the command line.
        words: what a DAG author would write for it.
        tasks: the tasks, in order.
        pipeline: the pipeline's options, with ``source`` and ``warehouse`` inside.
        changes: whether the transform changes rows as ``table.TRANSFORMED`` says.
        parts: how many ranges of ids are moved at once, each as a part with tasks of its own.
        together: whether the tasks of a part start at once.
        share: the share of the rows that is moved, for what is slow.
        goal: at most how many times the limit's time it should take on two cores.
        missing: says what the installed version lacks; "" when nothing.
    """

    name: str
    words: str
    tasks: tuple[Task, ...]
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    changes: bool = False
    parts: int = 1
    together: bool = False
    share: float = 1.0
    goal: float | None = None
    missing: Callable[[], str] = lambda: ""


def lacks(owner: str, *options: str) -> Callable[[], str]:
    """Return what says whether a public name, or an option of it, is missing in this version."""

    def missing() -> str:
        if owner not in package.__all__:
            return f"this version has no {owner}"
        made = getattr(package, owner)
        # Airflow's operators are dataclasses too, but their options are parameters of __init__ alone.
        known = {
            name
            for base in inspect.getmro(made)
            for name in inspect.signature(vars(base).get("__init__", object.__init__)).parameters
        }
        absent = [option for option in options if option not in known]
        return f"{owner} of this version has no {', '.join(absent)}" if absent else ""

    return missing


def lacks_any(*checks: Callable[[], str]) -> Callable[[], str]:
    """Return what says the first thing that is missing of several."""
    return lambda: next((reason for check in checks if (reason := check())), "")


def following(**options: Any) -> tuple[Task, ...]:
    """The three stages, each following the one before; the options are the transform's."""
    return (
        EXTRACT,
        transform(follow=True, **options),
        Task("load", "CheckpointLoadOperator", {"follow": True}),
    )


PER_BATCH: Final = {"python_callable": "per_batch", "mode": "batch"}
PER_COLUMNS: Final = {"python_callable": "per_record", "columns": ["quantity", "note"]}
PER_ROW: Final = {"python_callable": "per_record"}
NO_FOLLOW: Final = lacks("CheckpointLoadOperator", "follow")
NO_FORM: Final = lacks("Pipeline", "form")
NO_COLUMNS: Final = lacks("CheckpointTransformOperator", "columns")

IN_FILES: Final = {"staging": "{files}"}
"""Staging in files of a temporary folder, which the harness puts in for ``{files}``."""

CASES: Final = (
    Case(
        "pass-through",
        "no transform; staged in files",
        (EXTRACT, transform(), LOAD),
        IN_FILES,
    ),
    Case(
        "pass-through, Redis",
        "the same; staged in Redis",
        (EXTRACT, transform(), LOAD),
        share=0.25,
    ),
    Case(
        "pass-through, PostgreSQL",
        "the same; checkpoints and staging in PostgreSQL",
        (EXTRACT, transform(), LOAD),
        {"checkpoint_conn_id": "checkpoints"},
        share=0.25,
    ),
    Case(
        "copy form",
        'form="copy": verbatim binary COPY, no transform',
        (EXTRACT, transform(), LOAD),
        {**IN_FILES, "form": "copy"},
        missing=NO_FORM,
        goal=1.6,
    ),
    Case(
        "batch transform",
        'mode="batch": pyarrow.Table -> pyarrow.Table',
        (EXTRACT, transform(**PER_BATCH), LOAD),
        IN_FILES,
        changes=True,
        goal=2.1,
    ),
    Case(
        "declared columns",
        'mode="record", columns=["quantity", "note"]',
        (EXTRACT, transform(**PER_COLUMNS), LOAD),
        IN_FILES,
        changes=True,
        share=0.5,
        missing=NO_COLUMNS,
        goal=2.6,
    ),
    Case(
        "whole-row dicts",
        'mode="record": dict -> dict, all ten columns',
        (EXTRACT, transform(**PER_ROW), LOAD),
        IN_FILES,
        changes=True,
        share=0.25,
        goal=4.5,
    ),
    Case(
        "one task",
        "CheckpointTransferOperator: all stages in one task, nothing staged",
        (Task("transfer", "CheckpointTransferOperator"),),
        missing=lacks("CheckpointTransferOperator"),
        goal=1.15,
    ),
    Case(
        "stages at once",
        "follow=True: every stage follows the one before while that still works",
        following(),
        IN_FILES,
        together=True,
        missing=NO_FOLLOW,
    ),
    Case(
        "stages at once, copy form",
        'follow=True and form="copy"',
        following(),
        {**IN_FILES, "form": "copy"},
        together=True,
        missing=lacks_any(NO_FOLLOW, NO_FORM),
        goal=1.2,
    ),
    Case(
        "stages at once, batch transform",
        'follow=True and mode="batch"',
        following(**PER_BATCH),
        IN_FILES,
        changes=True,
        together=True,
        missing=NO_FOLLOW,
        goal=1.6,
    ),
    Case(
        "stages at once, declared columns",
        'follow=True, mode="record", columns=["quantity", "note"]',
        following(**PER_COLUMNS),
        IN_FILES,
        changes=True,
        together=True,
        share=0.5,
        missing=lacks_any(NO_FOLLOW, NO_COLUMNS),
        goal=2.0,
    ),
    Case(
        "stages at once, whole-row dicts",
        'follow=True, mode="record", all ten columns',
        following(**PER_ROW),
        IN_FILES,
        changes=True,
        together=True,
        share=0.25,
        missing=NO_FOLLOW,
        goal=3.0,
    ),
    Case(
        "two parts",
        "no transform; two ranges of ids at once, each a part",
        (EXTRACT, transform(), LOAD),
        IN_FILES,
        parts=2,
    ),
    Case(
        "two parts, copy form",
        'form="copy"; two ranges of ids at once, each a part',
        (EXTRACT, transform(), LOAD),
        {**IN_FILES, "form": "copy"},
        parts=2,
        missing=NO_FORM,
        goal=1.2,
    ),
    Case(
        "two parts, one task each",
        "CheckpointTransferOperator; two ranges of ids at once, each a part",
        (Task("transfer", "CheckpointTransferOperator"),),
        parts=2,
        missing=lacks("CheckpointTransferOperator"),
        goal=1.0,
    ),
)
