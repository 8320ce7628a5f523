"""Inputs of a job: prompts or conditions, from each of which it draws so many samples."""
