"""Errors a user can act on. This module imports nothing of the project.

The command line prints ``str(error)`` as one sentence on standard error and exits with 1. Anything else that escapes
is a defect of ours and shows its traceback.
"""


class CentipedeError(Exception):
    """A user's mistake or a fault of the host. The text is one sentence: what, where, what to do about it."""


class ConfigError(CentipedeError):
    """A configuration file, key file or option that cannot be used. Names the file and the key."""


class HostError(CentipedeError):
    """The host refused: no permission, no device, an address in use, a missing interface."""


class ControlError(CentipedeError):
    """The daemon could not be reached, or it refused the request."""


class HandoverError(CentipedeError):
    """An offer or an export that cannot be used, or a session that cannot be handed over."""
