"""Voxel worlds: procedural worlds of blocks, drawn by our own renderer (extra `render`).

`styles` builds a world from a style and a seed; `world.VoxelWorld` is its whole description; `render.VoxelRenderer`
paints it for any camera; `walk` plans camera paths through it; `dataset` writes them as episodes.
"""
