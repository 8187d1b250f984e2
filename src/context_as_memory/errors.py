"""The one exception that users are meant to read."""


class UserError(ValueError):
    """Bad input, described in one line: what is wrong, where, and how to mend it.

    The command line prints it without a traceback and exits with code 2; library users may catch it as a `ValueError`.
    """
