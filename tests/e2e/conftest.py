"""A real browser for the tests of the page."""

import os

import pytest

from context_as_memory.errors import UserError
from context_as_memory.server.record import chromium


@pytest.fixture(scope="module")
def installed():
    """The path of Debian's Chromium. Machines of checks have it: `.ci/run` installs it, and without it fails."""
    try:
        return chromium()
    except UserError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def browser(installed):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        yield opened
        opened.close()
