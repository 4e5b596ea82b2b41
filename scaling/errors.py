"""Errors that are the user's to mend: one clear sentence, exit code 2, no traceback."""


class UserError(ValueError):
    """Bad input. The message names the field, the value and what to do, in one sentence."""
