"""Errors of the lab that a user can act on."""

from __future__ import annotations

from centipede.errors import CentipedeError


class LabError(CentipedeError):
    """A scenario that cannot be used, or a part of the lab that failed. The text is one sentence: what and where."""


class HostGoneError(LabError):
    """A host is no longer there."""


class NotReadyError(LabError):
    """Something that was waited for did not come to pass within its deadline."""
