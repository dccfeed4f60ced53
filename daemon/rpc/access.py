"""Who may call: the names in a client's certificate against ``grpc.allowed_clients``; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from daemon.rpc.status import plain

_COMMON_NAME = "x509_common_name"
_ALTERNATIVE_NAME = "x509_subject_alternative_name"
_NAME_MAX = 200  # characters of a foreign name in a log


@dataclass(frozen=True, slots=True)
class Caller:
    """The other side of a call.

    Attributes:
        address: its address without the port.
        names: the names in its certificate, empty without TLS.
    """

    address: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{plain(self.names[0], _NAME_MAX)} at {self.address}" if self.names else self.address


def caller(peer: str, auth: Mapping[str, Iterable[bytes]]) -> Caller:
    """Who calls.

    Args:
        peer: as gRPC writes it: ``ipv4:127.0.0.1:40001``, ``ipv6:%5B::1%5D:40001``.
        auth: the context's properties of the connection.
    """
    _family, _, rest = peer.partition(":")
    address = rest.rpartition(":")[0] or rest or peer
    address = address.replace("%5B", "").replace("%5D", "").strip("[]")
    return Caller(address=plain(address, _NAME_MAX), names=names_of(auth))


def names_of(auth: Mapping[str, Iterable[bytes]]) -> tuple[str, ...]:
    """The common name and the alternative names of the client's certificate, each once."""
    found = [*auth.get(_COMMON_NAME, ()), *auth.get(_ALTERNATIVE_NAME, ())]
    return tuple(dict.fromkeys(name.decode("utf-8", "replace") for name in found if name))


class AllowList:
    """The names that may call; upper and lower case are one, as in host names.

    Args:
        names: ``grpc.allowed_clients``; none: everybody whose certificate the authority signed.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(name.casefold() for name in names)

    @property
    def open(self) -> bool:
        """Whether every caller may come in."""
        return not self._names

    def admits(self, names: Iterable[str]) -> bool:
        """Whether one of a caller's names is among them."""
        return self.open or any(name.casefold() in self._names for name in names)
