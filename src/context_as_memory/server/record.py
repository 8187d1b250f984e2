"""A film of the explorer's page: a real session in a real browser, walked by a short script."""

import io
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from context_as_memory.errors import UserError
from context_as_memory.formats.files import atomic
from context_as_memory.formats.video import VideoWriter

WALK = (("w", 4), ("j", 8), ("l", 8), ("w", 4), ("l", 8), ("j", 8))  # keys, and for how many chunks each is held
SIZE = (1280, 720)
SHOTS_PER_SECOND = 5  # of the film: a shot is taken after every chunk


def record(app: Any, path: Path, settings: dict[str, Any]) -> Path:
    """Serve `app` on a free port, walk WALK in Chromium with memory off beside it, and film the page into `path`, an
    .mp4, or a moving picture (.webp)."""
    if path.suffix not in (".mp4", ".webp"):
        raise UserError(f"a film ends in .mp4 or .webp; {path.name} does not")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise UserError("playwright is not installed; pip install playwright") from error
    with serving(app, settings) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        # Waits are texts that the page evaluates, which its own rules forbid.
        page = browser.new_page(bypass_csp=True, viewport={"width": SIZE[0], "height": SIZE[1]})
        page.goto(address)
        page.wait_for_function("document.body.dataset.state === 'ready'")
        page.locator("#compare").check()
        shots = [_shot(page)]
        for key, chunks in WALK:
            page.keyboard.down(key)
            for _ in range(chunks):
                before = page.evaluate("Number(document.body.dataset.chunks)")
                page.wait_for_function(f"Number(document.body.dataset.chunks) > {before}")
                shots.append(_shot(page))
            page.keyboard.up(key)
        browser.close()
    if path.suffix == ".webp":
        _moving_picture(shots, path)
    else:
        with VideoWriter(path, *SIZE, fps=SHOTS_PER_SECOND, crf=20, pix_fmt="yuv420p") as film:
            film.write(np.stack(shots))
    return path


def _moving_picture(shots: list[np.ndarray], path: Path) -> None:
    from PIL import Image

    pictures = [Image.fromarray(shot).resize((SIZE[0] * 3 // 4, SIZE[1] * 3 // 4)) for shot in shots]
    settings = {"save_all": True, "append_images": pictures[1:], "duration": 1000 // SHOTS_PER_SECOND, "loop": 0}
    with atomic(path) as partial:
        pictures[0].save(partial, "WEBP", quality=60, **settings)


def chromium() -> str:
    """The browser of this system; `UserError` if there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise UserError("no Chromium here; install it (Debian: apt install chromium)")
    return path


@contextmanager
def serving(app: Any, settings: dict[str, Any] | None = None) -> Iterator[str]:
    """The app on a port of this machine, a free one if the settings name none, in a thread; gives its address."""
    import uvicorn

    chosen: dict[str, Any] = {"port": 0, "log_level": "warning"} | (settings or {})
    server = uvicorn.Server(uvicorn.Config(app, **chosen))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise UserError("the server did not start")
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


def _shot(page: Any) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
