"""`python -m context_as_memory` is the same program as `cam`."""

from context_as_memory.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
