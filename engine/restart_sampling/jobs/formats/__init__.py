"""The formats of a job's samples, one file each: png, npz, wds, parquet.

A format is a module of this folder that defines `FORMAT`, and nothing else has to know it; docs/adding-a-format.md.
"""
