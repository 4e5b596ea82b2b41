"""The decoder: one file per kind of block, parameters declared once, forward passes pure."""
