"""The old place of `formats.video` and `formats.pictures`; kept until every import is changed."""

from context_as_memory.formats.files import clear_partials as clear_partials
from context_as_memory.formats.files import partial_path as partial_path
from context_as_memory.formats.pictures import check_frames as check_frames
from context_as_memory.formats.pictures import fit_frame as fit_frame
from context_as_memory.formats.pictures import read_image as read_image
from context_as_memory.formats.pictures import write_image as write_image
from context_as_memory.formats.video import VideoWriter as VideoWriter
from context_as_memory.formats.video import read_video as read_video
from context_as_memory.formats.video import to_frames as to_frames
from context_as_memory.formats.video import to_video as to_video
