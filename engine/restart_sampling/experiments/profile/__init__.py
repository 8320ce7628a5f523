"""Profiles of a run: launches, bytes and time, by part."""
