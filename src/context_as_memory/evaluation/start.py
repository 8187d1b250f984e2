"""The old place of `formats.places`; kept until every import is changed."""

from context_as_memory.formats.places import StartFrame as StartFrame
from context_as_memory.formats.places import known_place as known_place
from context_as_memory.formats.places import start_folder as start_folder
from context_as_memory.formats.places import start_frame as start_frame
from context_as_memory.formats.places import start_names as start_names
