"""`python -m restart_sampling`: the command `restart-sampling`."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
