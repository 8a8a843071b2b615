"""A link between two network namespaces that delays, loses and cuts, in its own process.

Started as ``python wire.py NAME NAME``, it makes two TUN devices of these names and carries each
packet from one to the other. A line on its input sets how: ``delay 0.02`` for seconds each way,
``loss 0.01`` for the share of packets that vanish, ``cut``, ``heal``; each is answered by ``done``.
It ends when its input does.

A program, and not ``tc netem``: kernels are built without that qdisc, and few without TUN.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field

# From linux/if_tun.h: https://docs.kernel.org/networking/tuntap.html
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
_BATCH = 64
"""How many packets are read before those that are due are forwarded."""


@dataclass
class Weather:
    """What the link does to packets."""

    delay_s: float = 0.0
    loss: float = 0.0
    is_cut: bool = False
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    def obey(self, line: str) -> None:
        """Change as a line says."""
        what, *values = line.split()
        if what == "delay":
            self.delay_s = float(values[0])
        elif what == "loss":
            self.loss = float(values[0])
        else:
            self.is_cut = {"cut": True, "heal": False}[what]

    def swallows(self) -> bool:
        """Return whether the next packet is lost."""
        return self.is_cut or (self.loss > 0 and self.draw.random() < self.loss)


@dataclass
class End:
    """One of the two devices, and the packets that are on their way to it."""

    device: int
    coming: deque[tuple[float, bytes]] = field(default_factory=deque)

    def deliver(self, now: float) -> None:
        """Hand over what is due."""
        while self.coming and self.coming[0][0] <= now:
            try:
                os.write(self.device, self.coming.popleft()[1])
            except OSError:  # the device is down, or full: a lost packet
                continue


def main(names: list[str]) -> None:
    """Carry packets until the input ends."""
    near, far = (End(_open_device(name)) for name in names)
    weather = Weather()
    print("done", flush=True)
    while True:
        ready, _, _ = select.select([near.device, far.device, 0], [], [], _pause((near, far)))
        if 0 in ready:
            commands = os.read(0, 4096).decode()
            if not commands:
                return
            for line in commands.splitlines():
                weather.obey(line)
                print("done", flush=True)
        for source, target in ((near, far), (far, near)):
            if source.device in ready:
                _take_in(source, target, weather)
            target.deliver(time.monotonic())


def _open_device(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN_NO_PI))
    return device


def _pause(ends: tuple[End, ...]) -> float | None:
    due = [end.coming[0][0] for end in ends if end.coming]
    return max(0.0, min(due) - time.monotonic()) if due else None


def _take_in(source: End, target: End, weather: Weather) -> None:
    for _ in range(_BATCH):
        try:
            packet = os.read(source.device, 65536)
        except OSError:  # nothing more, or the device is down
            return
        if not weather.swallows():
            target.coming.append((time.monotonic() + weather.delay_s, packet))


if __name__ == "__main__":
    main(sys.argv[1:])
