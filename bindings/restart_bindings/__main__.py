"""`python -m restart_bindings`: one line for each type of device, what the native library does there or why it is
missing.
"""

from __future__ import annotations

from . import MODULES, available, reason, simd


def main() -> int:
    for device_type in MODULES:
        found = f"native step with {simd()}" if device_type == "cpu" and available() else "native step"
        print(f"{device_type}: {found if available(device_type) else reason(device_type)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
