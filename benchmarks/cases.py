"""What is measured of the chain: a table of cases. To add one, add a few lines to ``CASES``.

A case that uses what the installed version does not offer is skipped and reported with the reason.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
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


IN_FILES: Final = {"staging": "{files}"}
"""Staging in files of a temporary folder, which the harness puts in for ``{files}``."""


def three_stages(**options: Any) -> tuple[Task, ...]:
    """The three stages; the options are the transform's."""
    return (EXTRACT, transform(**options), LOAD)


PASS_THROUGH: Final = Case(
    "pass-through",
    "no transform; staged in files",
    three_stages(),
    IN_FILES,
)
COPY_FORM: Final = Case(
    "copy form",
    'form="copy": verbatim binary COPY, no transform',
    three_stages(),
    {**IN_FILES, "form": "copy"},
    missing=lacks("Pipeline", "form"),
    goal=1.6,
)
BATCH: Final = Case(
    "batch transform",
    'mode="batch": pyarrow.Table -> pyarrow.Table',
    three_stages(python_callable="per_batch", mode="batch"),
    IN_FILES,
    changes=True,
    goal=2.1,
)
COLUMNS: Final = Case(
    "declared columns",
    'mode="record", columns=["quantity", "note"]',
    three_stages(python_callable="per_record", columns=["quantity", "note"]),
    IN_FILES,
    changes=True,
    share=0.5,
    missing=lacks("CheckpointTransformOperator", "columns"),
    goal=2.6,
)
DICTS: Final = Case(
    "whole-row dicts",
    'mode="record": dict -> dict, all ten columns',
    three_stages(python_callable="per_record"),
    IN_FILES,
    changes=True,
    share=0.25,
    goal=4.5,
)
ONE_TASK: Final = Case(
    "one task",
    "CheckpointTransferOperator: all stages in one task, nothing staged",
    (Task("transfer", "CheckpointTransferOperator"),),
    missing=lacks("CheckpointTransferOperator"),
    goal=1.15,
)


def at_once(case: Case, name: str, words: str, goal: float | None = None) -> Case:
    """The same chain, with every stage following the one before."""
    first, *others = case.tasks
    followers = (replace(task, options={**task.options, "follow": True}) for task in others)
    return replace(
        case,
        name=name,
        words=words,
        tasks=(first, *followers),
        together=True,
        goal=goal,
        missing=lacks_any(lacks("CheckpointLoadOperator", "follow"), case.missing),
    )


def halved(case: Case, name: str, words: str, goal: float | None = None) -> Case:
    """The same tasks over two ranges of ids at once, each a part."""
    return replace(case, name=name, words=words, parts=2, goal=goal)


CASES: Final = (
    PASS_THROUGH,
    replace(
        PASS_THROUGH,
        name="pass-through, Redis",
        words="the same; staged in Redis",
        pipeline={},
        share=0.25,
    ),
    replace(
        PASS_THROUGH,
        name="pass-through, PostgreSQL",
        words="the same; checkpoints and staging in PostgreSQL",
        pipeline={"checkpoint_conn_id": "checkpoints"},
        share=0.25,
    ),
    COPY_FORM,
    BATCH,
    COLUMNS,
    DICTS,
    ONE_TASK,
    at_once(
        PASS_THROUGH,
        "stages at once",
        "follow=True: every stage follows the one before while that still works",
    ),
    at_once(COPY_FORM, "stages at once, copy form", 'follow=True and form="copy"', 1.2),
    at_once(BATCH, "stages at once, batch transform", 'follow=True and mode="batch"', 1.6),
    at_once(
        COLUMNS,
        "stages at once, declared columns",
        'follow=True, mode="record", columns=["quantity", "note"]',
        2.0,
    ),
    at_once(
        DICTS,
        "stages at once, whole-row dicts",
        'follow=True, mode="record", all ten columns',
        3.0,
    ),
    halved(PASS_THROUGH, "two parts", "no transform; two ranges of ids at once, each a part"),
    halved(
        COPY_FORM,
        "two parts, copy form",
        'form="copy"; two ranges of ids at once, each a part',
        1.2,
    ),
    halved(
        ONE_TASK,
        "two parts, one task each",
        "CheckpointTransferOperator; two ranges of ids at once, each a part",
        1.0,
    ),
)
