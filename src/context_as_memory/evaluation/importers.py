"""The old place of `formats.importers`; kept until every import is changed."""

from context_as_memory.formats.importers import SCENE_MEM_HFOV_DEG as SCENE_MEM_HFOV_DEG
from context_as_memory.formats.importers import ImportedVideo as ImportedVideo
from context_as_memory.formats.importers import import_videos as import_videos
