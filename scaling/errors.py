"""Errors that are shown as one clear sentence, without a traceback."""


class UserError(ValueError):
    """Bad input, the user's to mend: exit code 2. The message names the field, the value and what to do."""


class RunError(RuntimeError):
    """A run that cannot go on now, through no fault of its config: exit code 1. It stays resumable."""
