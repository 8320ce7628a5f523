"""Noise-level grids, one file each. A file that defines `SCHEDULE` is a grid wherever grids are chosen by name."""
