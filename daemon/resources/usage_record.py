"""One agent's sample as a record of a ring."""

from __future__ import annotations

import struct

import msgspec

from daemon.resources.ring import (
    BODY_BYTES,
    NONE_U32,
    Form,
    float_in,
    float_out,
    sealed,
    whole_in,
    whole_out,
)

# sequence, time, cpu, reported cpu, rss, vms, read, write, reported memory (KiB), files, threads, crc
_RECORD = struct.Struct("<IIffQQQQIIII")
_KIB = 1024


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One stored sample; None for what was not known.

    Attributes:
        at: wall time, whole Unix seconds.
        cpu: percent of one core.
        rss, vms, read, write: bytes.
        files, threads: numbers.
        reported_cpu, reported_memory: what the agent's heartbeats said; memory in whole KiB.
    """

    at: int
    cpu: float | None = None
    rss: int | None = None
    vms: int | None = None
    read: int | None = None
    write: int | None = None
    files: int | None = None
    threads: int = 0
    reported_cpu: float | None = None
    reported_memory: int | None = None


def encode(sequence: int, sample: Sample) -> bytes:
    """A record."""
    reported = sample.reported_memory
    return sealed(_RECORD.pack(
        sequence % 2**32, max(1, min(sample.at, NONE_U32)),
        float_in(sample.cpu), float_in(sample.reported_cpu),
        whole_in(sample.rss), whole_in(sample.vms), whole_in(sample.read), whole_in(sample.write),
        NONE_U32 if reported is None else min(reported // _KIB, NONE_U32 - 1),
        NONE_U32 if sample.files is None else min(sample.files, NONE_U32 - 1),
        min(sample.threads, NONE_U32), 0,
    )[:BODY_BYTES])


def sample_of(record: bytes) -> Sample:
    """The sample in a record that is intact."""
    _sequence, at, cpu, reported_cpu, rss, vms, read, write, reported, files, threads, _crc = _RECORD.unpack(
        record
    )
    return Sample(
        at=at, cpu=float_out(cpu), reported_cpu=float_out(reported_cpu), rss=whole_out(rss),
        vms=whole_out(vms), read=whole_out(read), write=whole_out(write),
        files=None if files == NONE_U32 else files, threads=threads,
        reported_memory=None if reported == NONE_U32 else reported * _KIB,
    )


USAGE = Form(magic=b"HDRING", encode=encode, sample_of=sample_of)
