"""How a command ends, and what it says then."""

import sys

BAD_INPUT, INTERRUPTED = 2, 130  # exit codes


def fail(message: str) -> int:
    """Say on stderr, in one line, why a command failed; returns its exit code."""
    print("cam: error: " + " ".join(message.split()), file=sys.stderr)
    return BAD_INPUT
