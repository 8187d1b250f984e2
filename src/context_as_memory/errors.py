"""The one exception that users are meant to read, and how to install what is missing."""

import re
from importlib import metadata


class UserError(ValueError):
    """Bad input, described in one line: what is wrong, where, and how to mend it.

    The command line prints it without a traceback and exits with code 2; library users may catch it as a `ValueError`.
    """


def install(extra: str) -> str:
    """The command that installs what an extra of this package needs. It names the packages themselves: they can be had
    wherever this one came from, a checkout, a wheel or an index."""
    try:
        needed = metadata.requires("context-as-memory") or []
    except metadata.PackageNotFoundError:  # run from its sources
        needed = []
    marker = re.compile(rf"extra == ['\"]{re.escape(extra)}['\"]")
    names = [f"'{entry.partition(';')[0].strip()}'" for entry in needed if marker.search(entry)]
    return " ".join(["pip install", *names]) if names else f"pip install '.[{extra}]' in the checkout"
