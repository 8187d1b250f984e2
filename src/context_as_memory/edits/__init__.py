"""Worlds that change and stay changed: a remembered view is replaced by an edited one.

Memory is made of pictures, so an edit is one: the edited view is appended to the branch as a recorded frame, and the
views that show the changed surface as it was are withdrawn from retrieval. Nothing is deleted. To undo an edit is to
rewind the branch; a branch forked before it keeps the world as it was.

`surface.py`  which views show the changed surface? By depth where it is known, elsewhere by a plane sweep.
`carry.py`    views near by that are remembered with the change painted into them, so that their surroundings stay too.
`edit.py`     what an edit leaves in a world.
"""

from context_as_memory.edits.carry import MOST_CARRIED
from context_as_memory.edits.edit import EditResult, edit
from context_as_memory.edits.surface import CHANGED, changed_pixels, project

__all__ = ["CHANGED", "MOST_CARRIED", "EditResult", "changed_pixels", "edit", "project"]
