"""How pixels become the file of a picture, one encoding a file: png, jpg, webp.

An encoding is a module of this folder that defines `ENCODING`, and nothing else has to know it: every format that holds
encoded pictures takes it.
"""
