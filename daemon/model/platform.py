"""The names of systems and machines as Go spells them, which node, Manager and packages use."""

from __future__ import annotations

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}

OS = "linux"
"""The one system the daemon runs on."""


def architecture(machine: str) -> str:
    """``x86_64`` is ``amd64``; what Go has no other name for stays as uname(2) calls it.

    Args:
        machine: as ``platform.machine()`` gives it.
    """
    return _ARCHITECTURES.get(machine, machine)
