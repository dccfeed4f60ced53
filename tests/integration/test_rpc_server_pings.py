"""A client that pings every ten seconds without calls, as the contract has it, is not sent away."""

from __future__ import annotations

import socket
import time

import pytest
from twisted.internet.threads import deferToThread

from tests.integration.rpc_support import RpcCase, unanswered

PING, GOAWAY = 6, 7
PINGS = 5


def frames(client: socket.socket, seconds: float) -> list[int]:
    """The types of the frames that came within that time."""
    found, data, end = [], b"", time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        client.settimeout(left)
        try:
            part = client.recv(65536)
        except TimeoutError:
            break
        if not part:
            return [*found, GOAWAY]
        data += part
        while len(data) >= 9 and len(data) >= 9 + int.from_bytes(data[:3], "big"):
            found.append(data[3])
            data = data[9 + int.from_bytes(data[:3], "big"):]
    return found


def ping(client: socket.socket, every_s: float) -> list[int]:
    """Pings without calls; what came back."""
    client.sendall(b"\x00\x00\x00\x04\x01\x00\x00\x00\x00")  # their settings are acknowledged
    found = frames(client, 0.2)
    for number in range(PINGS):
        client.sendall(b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + number.to_bytes(8, "big"))
        found += frames(client, every_s)
    return found


@pytest.mark.slow
class PingsTest(RpcCase):
    timeout = 120

    async def test_ten_seconds_are_permitted(self) -> None:
        await self.serve()
        with unanswered(self.port) as client:
            found = await deferToThread(ping, client, 10.0)
        self.assertNotIn(GOAWAY, found)
        self.assertEqual(found.count(PING), PINGS)


class FloodTest(RpcCase):
    async def test_a_flood_of_pings_is_sent_away(self) -> None:
        await self.serve()
        with unanswered(self.port) as client:
            found = await deferToThread(ping, client, 0.05)
        self.assertIn(GOAWAY, found)
