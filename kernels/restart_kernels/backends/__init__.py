"""The backends: one file each, with a `BACKEND` that follows the protocol in `base.py`.

Every file in this folder that defines `BACKEND` is a backend, and the file's name is the backend's name.
`docs/adding-a-backend.md` shows how to add one.
"""
