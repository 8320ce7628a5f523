"""`python -m restart_bindings` prints one line per type of device: what the native library does there, or why it is
missing.
"""

from __future__ import annotations

from . import MODULES, available, reason, simd


def main() -> int:
    """Print the lines; return the exit code."""
    for device_type in MODULES:
        found = f"native rows with {simd()}" if device_type == "cpu" and available() else "native rows"
        print(f"{device_type}: {found if available(device_type) else reason(device_type)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
