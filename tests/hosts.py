"""Hosts for tests of many machines: network namespaces of this one, each with an address of its own, joined by a bridge.

Does not know what runs in them. They share the files and the processes of the machine, and nothing of its network.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_NETWORK = 0x40000000
"""Linux's CLONE_NEWNET."""


@dataclass(frozen=True)
class Host:
    """name: of its namespace; link: of the bridge's side of its cable."""

    name: str
    address: str
    link: str

    def enter(self) -> None:
        """Move this process, which has one thread, into the host."""
        with open(f"/run/netns/{self.name}") as place:
            if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), _NETWORK):
                raise OSError(ctypes.get_errno(), f"setns {self.name}")

    def cut_off(self) -> None:
        """Take its cable out: packets are lost from now on, and nobody is told."""
        _ip("link", "set", self.link, "down")

    def put_back(self) -> None:
        """Its cable is in again."""
        _ip("link", "set", self.link, "up")


def unavailable() -> str:
    """Why there can be no hosts here; "" where there can."""
    if os.name != "posix" or not Path("/run").is_dir() or os.geteuid():
        return "network namespaces need root on Linux"
    if not shutil.which("ip"):
        return "network namespaces need the program ip (iproute2)"
    name = f"hone{os.getpid()}p"
    made = subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "link", "del", name], capture_output=True, check=False)
    return f"no bridge can be made here: {made.stderr.strip()}" if made.returncode else ""


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """`count` hosts with addresses 10.77.x.1, .2 ... (x of this process), taken down at the end."""
    tag, subnet = f"hone{os.getpid()}", f"10.77.{os.getpid() % 250}"
    made = [Host(f"{tag}h{number}", f"{subnet}.{number}", f"{tag}v{number}"[-15:]) for number in range(1, count + 1)]
    bridge = f"{tag}b"[-15:]
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        for host in made:
            _ip("netns", "add", host.name)
            _ip("link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("link", "set", host.link, "master", bridge)
            _ip("link", "set", host.link, "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", "eth0")
            for link in ("eth0", "lo"):
                _ip("-n", host.name, "link", "set", link, "up")
        yield made
    finally:
        for host in made:
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
