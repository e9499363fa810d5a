"""Why a record does not take effect. The codes are stable: clients, audits and tests name them."""

from __future__ import annotations

from enum import StrEnum


class Refusal(StrEnum):
    """The reason code of a refused record."""

    DUPLICATE = "duplicate"
    """The id of a request was used before: its first occurrence decides."""
    UNKNOWN_JOB = "unknown_job"
    UNKNOWN_DATASET = "unknown_dataset"
    UNKNOWN_CHECKPOINT = "unknown_checkpoint"
    """A claim names a checkpoint that is not an effective one of the job."""
    CLAIM_LOST = "claim_lost"
    """The job is not queued, or another claim of this attempt came first."""
    FENCED = "fenced"
    """The attempt is over, or held by another worker: somebody who was given up on is still talking."""
    OUT_OF_ORDER = "out_of_order"
    """An epoch that is not the next one, a checkpoint or an end that does not match the last effective epoch."""
    ALREADY_SAVED = "already_saved"
    """The checkpoint of that attempt, epoch and step is known."""
    ALREADY_OVER = "already_over"
    ALREADY_STOPPING = "already_stopping"
    NOT_PAUSABLE = "not_pausable"
    NOT_PAUSED = "not_paused"
    NOT_RETRIABLE = "not_retriable"
    MISROUTED = "misrouted"
    """Key, workspace and partition, or id and subject, do not agree."""
    UNKNOWN_TYPE = "unknown_type"
    """The rules in force do not know the type."""
    UNDECODABLE = "undecodable"
    RULES_OUT_OF_ORDER = "rules_out_of_order"
