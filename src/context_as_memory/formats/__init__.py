"""Files of every kind at the border of the package: pictures, videos, cameras, and videos of other systems.

Everything is read by one reader and turned into the conventions of docs/conventions.md here, and nowhere else:

- `files`: atomic writing, arrays, JSON and text.
- `pictures`, `video`: one reader each, for the command line, the explorer and the importers.
- `options`: what a user can say about a camera file. `cameras`: the one reader of camera files; `tables`, `documents`
  and `colmap` know the formats, `lens` decides which lens fits a picture, `vertical` and `checks` measure what would
  otherwise be assumed. `write` is the way back.
- `importers`: videos with cameras in the layouts they come in. `places`: the shipped start places.
"""
