"""Uploaded pictures, unpacked in a process of their own: one that is made to cost does so there, and not for long.

Run as a program it reads a picture file from stdin and writes the frame's bytes to stdout, or one sentence to stderr.
"""

import asyncio
import contextlib
import os
import sys
from dataclasses import dataclass

import numpy as np

from context_as_memory.errors import UserError
from context_as_memory.server.pictures import decode_upload

SECONDS = 10  # for one picture, start of the process included
MEMORY_BYTES = 2_000_000_000
REFUSED = 3  # exit code: the picture, and stderr says why


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What an uploaded picture must become, and what it may be."""

    width: int
    height: int
    max_pixels: int
    exact: bool = False
    """It must have that size: it is not scaled."""


class Uploads:
    """Unpacks pictures, two at a time; others wait."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(2)

    async def frame(self, data: bytes, upload: Upload) -> np.ndarray:
        """The picture file as one frame, uint8 [height, width, 3]. `UserError` for anything else, and for a picture
        that takes too long or too much memory."""
        async with self._turns:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                __name__,
                *map(str, (upload.width, upload.height, upload.max_pixels, int(upload.exact))),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            try:
                async with asyncio.timeout(SECONDS):
                    pixels, told = await process.communicate(data)
            except TimeoutError:
                raise UserError("the picture takes too long to unpack; save it again as a plain JPEG") from None
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if process.returncode == REFUSED:
            raise UserError(told.decode("utf-8", "replace").strip() or "the picture cannot be read")
        size = upload.width * upload.height * 3
        if process.returncode != 0 or len(pixels) != size:
            raise UserError("the picture takes too much to unpack; save it again as a plain JPEG")
        return np.frombuffer(pixels, np.uint8).reshape(upload.height, upload.width, 3)


def main() -> int:
    """Unpack the picture on stdin, within limits of the system."""
    width, height, max_pixels, exact = (int(word) for word in sys.argv[1:5])
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        os.nice(10)  # walkers come first
    try:
        frame = decode_upload(sys.stdin.buffer.read(), width, height, max_pixels, bool(exact))
    except UserError as error:
        print(error, file=sys.stderr)
        return REFUSED
    sys.stdout.buffer.write(frame.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
