"""One sample of the host as a record of a ring."""

from __future__ import annotations

import struct

import msgspec

from daemon.resources.ring import BODY_BYTES, NONE_U32, Form, float_in, float_out, sealed, whole_in, whole_out

# sequence, time, cpu, load1, fullest, read, written, received, sent, memory used, total, swap used, crc
_RECORD = struct.Struct("<IIfffffffQQQI")


class HostSample(msgspec.Struct, frozen=True, kw_only=True):
    """One stored sample; None for what was not known.

    Attributes:
        at: wall time, whole Unix seconds.
        cpu: percent of all cores that were neither idle nor waiting, since the sample before.
        load1: the load average over a minute.
        fullest: percent used of the fullest filesystem.
        read, written: bytes a second of all disks, since the sample before.
        received, sent: bytes a second of all interfaces, likewise.
        memory_used, memory_total, swap_used: bytes.
    """

    at: int
    cpu: float | None = None
    load1: float | None = None
    fullest: float | None = None
    read: float | None = None
    written: float | None = None
    received: float | None = None
    sent: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    swap_used: int | None = None

    @property
    def known(self) -> bool:
        """Whether anything is; of a host whose collectors are off there is nothing to keep."""
        return any(value is not None for value in msgspec.structs.astuple(self)[1:])


def encode(sequence: int, sample: HostSample) -> bytes:
    """A record."""
    return sealed(_RECORD.pack(
        sequence % 2**32, max(1, min(sample.at, NONE_U32)), float_in(sample.cpu), float_in(sample.load1),
        float_in(sample.fullest), float_in(sample.read), float_in(sample.written), float_in(sample.received),
        float_in(sample.sent), whole_in(sample.memory_used), whole_in(sample.memory_total),
        whole_in(sample.swap_used), 0,
    )[:BODY_BYTES])


def sample_of(record: bytes) -> HostSample:
    """The sample in a record that is intact."""
    _sequence, at, cpu, load1, fullest, read, written, received, sent, used, total, swap, _crc = (
        _RECORD.unpack(record)
    )
    return HostSample(
        at=at, cpu=float_out(cpu), load1=float_out(load1), fullest=float_out(fullest), read=float_out(read),
        written=float_out(written), received=float_out(received), sent=float_out(sent),
        memory_used=whole_out(used), memory_total=whole_out(total), swap_used=whole_out(swap),
    )


HOST = Form(magic=b"HDHOST", encode=encode, sample_of=sample_of)
