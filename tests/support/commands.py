"""The command line as tests call it, in this process."""

from __future__ import annotations

from restart_sampling.cli.app import main


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of one call."""
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err
