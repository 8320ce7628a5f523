"""Names that other libraries have for settings of this one."""

from __future__ import annotations

from typing import Any

from ..common.errors import ConfigError


def restart_of(restart: Any, restart_list: Any, default: Any) -> Any:
    """`restart`, or `restart_list`, its name in other samplers; `default` is what `restart` is where nothing was given.

    Raises:
        ConfigError: both are given.
    """
    if restart_list is None:
        return restart
    if restart != default:
        raise ConfigError("restart and restart_list are two names of one setting; give one of them")
    return restart_list
