"""Every error this package raises.

The docstring of a class is its default message. A message states the fact, the values and the next
move; it never carries row values, passwords or connection URIs. ``retryable`` says whether trying the
same task again can help: Airflow's retries are spent only where they can.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar


class CheckpointEtlError(Exception):
    """The checkpointed pipeline cannot go on."""

    retryable: ClassVar[bool] = True

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)))


# --- wrong from the start: configuration and preflight ------------------------------------------


class ConfigurationError(CheckpointEtlError, ValueError):
    """A parameter of the pipeline is wrong; nothing was read or written."""

    retryable = False


def invalid(parameter: str, value: Any, rule: str, next_move: str) -> ConfigurationError:
    """Build the error for one bad parameter: its name, its value, the rule and the next move."""
    return ConfigurationError(f"{parameter}={value!r}: {rule}; {next_move}")


class PreflightError(CheckpointEtlError):
    """The source or the target does not allow this pipeline; nothing was written."""

    retryable = False


class TypeMismatchError(PreflightError):
    """A column cannot be carried into its target without changing values; nothing was written."""


class MissingDependencyError(CheckpointEtlError, ImportError):
    """An optional dependency is missing."""

    retryable = False


class SchemaVersionError(CheckpointEtlError):
    """The stored state was written by a newer version of this package; upgrade before going on."""

    retryable = False


class MissingPrivilegeError(PreflightError):
    """The role may not do what the pipeline needs."""


# --- the protocol --------------------------------------------------------------------------------


class ManifestConflictError(CheckpointEtlError):
    """The manifest's head is not where this attempt left it; the stage reconciles and goes on."""


class CorruptRecordError(CheckpointEtlError):
    """A stored checkpoint record fails its checksum; it is rebuilt from the warehouse."""


class FencedError(CheckpointEtlError):
    """A newer attempt owns this stage; this attempt stops and has written nothing since."""

    retryable = False


class RewoundError(CheckpointEtlError):
    """The lane was rewound or reset while this attempt ran; clear the run to start again."""

    retryable = False


class StageBusyError(CheckpointEtlError):
    """Another task run owns this stage and its lease is live."""

    def __init__(self, message: str | None = None, stage: str = "") -> None:
        super().__init__(message)
        self.stage = stage


class PlanOpenError(CheckpointEtlError):
    """A range plan is open over the main lane; its parts load for it until it is closed."""


class PlanEndedError(CheckpointEtlError):
    """The lane is a part of a range plan that has ended."""

    retryable = False

    def __init__(self, message: str | None = None, *, loaded: bool = False) -> None:
        super().__init__(message)
        self.loaded = loaded


class PlanNotDoneError(CheckpointEtlError):
    """Parts of the range plan are not at their end, so it cannot be closed."""

    retryable = False


class RewindError(CheckpointEtlError):
    """The lane cannot be rewound there; nothing was changed."""

    retryable = False


class UpstreamLostError(CheckpointEtlError):
    """The stage before this one has not staged the chunks up to the run's target."""

    retryable = False


class UpstreamFailedError(CheckpointEtlError):
    """The stage that this one follows failed; what it had staged is done."""

    retryable = False


class UpstreamSkippedError(CheckpointEtlError):
    """The stage that this one follows was skipped."""

    retryable = False


class StageWaitingError(CheckpointEtlError):
    """A stage that runs beside others has nothing to do for now; it gives its worker slot back.

    Args:
        message: what it waits for.
        holding: whether it waits for what it has staged to be loaded, and not for the stage before.
    """

    def __init__(self, message: str | None = None, *, holding: bool = False) -> None:
        super().__init__(message)
        self.holding = holding


class WarehouseRestoredError(CheckpointEtlError):
    """The checkpoint store is ahead of the warehouse: the warehouse was restored to an older state."""

    retryable = False


class PipelineChangedError(CheckpointEtlError):
    """The cursor, source, target or filter changed under an existing pipeline id."""

    retryable = False


class SourceResetError(CheckpointEtlError):
    """The source has gone back: it may issue ids again that the checkpoint has passed."""

    retryable = False


# --- on the way ----------------------------------------------------------------------------------


class SettleTimeoutError(CheckpointEtlError):
    """Transactions that may still insert below the bound did not end in time."""


class StagedChunkError(CheckpointEtlError):
    """A staged chunk is missing, damaged or too large."""


class ChunkTooLargeError(StagedChunkError):
    """A staged chunk is larger than the staging area's cap; nothing was stored."""

    retryable = False


class CopiedChunkError(StagedChunkError):
    """A chunk that a transform should read was staged in copy form."""

    retryable = False


class TransformError(CheckpointEtlError):
    """The transform raised or returned something that is not a record; nothing of its chunk was kept."""


class TooManyRejectedError(CheckpointEtlError):
    """More records were rejected than the pipeline accepts; nothing of the chunk at hand was kept."""

    retryable = False


class ConfirmationError(CheckpointEtlError):
    """The action was not planned like this, or too long ago; nothing was changed."""

    retryable = False


class ReplayError(CheckpointEtlError):
    """Quarantined records cannot be replayed like this; nothing was changed."""

    retryable = False


class ValueNotCarriedError(CheckpointEtlError):
    """A value does not fit the type that carries it; nothing of its chunk was written."""

    retryable = False


class CancelledError(CheckpointEtlError):
    """The task was asked to stop; everything committed so far is kept."""
