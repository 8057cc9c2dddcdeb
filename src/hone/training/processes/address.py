"""Address: where this machine and another one meet: names resolved, ports reached, and who holds a port.

Does not know what is said over it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from pathlib import Path

from hone.errors import TrainingError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_GET_ADDRESS = 0x8915
"""Linux's SIOCGIFADDR: the IPv4 address of an interface."""
_LISTENS = "0A"


def resolved(host: str) -> str:
    """The numeric address of `host`; OSError where it has none."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return next((entry for entry in found if entry[0] == socket.AF_INET), found[0])[4][0]


def is_here(host: str) -> bool:
    """Whether `host` is an address of this machine."""
    try:
        address = resolved(host)
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def outward_address() -> str:
    """An address of this machine that others can use: that of its name, or of the way out."""
    with contextlib.suppress(OSError):
        if not (found := resolved(socket.gethostname())).startswith("127."):
            return found
    return own_address("192.0.2.1")  # of no machine: kept for examples, so it is reached by the way out


def own_address(toward: str) -> str:
    """The address by which this machine reaches `toward`; that of its name where `toward` is itself."""
    with contextlib.suppress(OSError):
        address = resolved(toward)
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # no packet is sent: the system chooses the way
            return probe.getsockname()[0]
    return "127.0.0.1"


def interface_of(address: str) -> str:
    """The name of the network interface that has an IPv4 address; "" where it is not found."""
    if fcntl is None:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                found = fcntl.ioctl(probe.fileno(), _GET_ADDRESS, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return ""


def require_reachable(host: str, port: int, seconds: float, what: str) -> None:
    """Wait until somebody listens at host:port; TrainingError with the last reason after `seconds`. what: who should listen."""
    end = time.monotonic() + seconds
    while True:
        try:
            address = resolved(host)
        except OSError as problem:
            reason = f"MASTER_ADDR {host} cannot be resolved here ({problem.strerror}); write a name that all machines know"
        else:
            try:
                socket.create_connection((address, port), timeout=5).close()
                return
            except ConnectionRefusedError:
                reason = f"nobody listens at {host}:{port}: {what} has not started, has ended, or has another MASTER_PORT"
            except OSError as problem:
                why = problem.strerror or "no answer"
                reason = f"{host}:{port} does not answer {socket.gethostname()} ({why}): a wrong address, or a firewall between"
        if time.monotonic() > end:
            raise TrainingError(f"{reason}. Tried for {seconds:.0f} s (join_timeout)")
        time.sleep(0.3)


def require_free(port: int) -> None:
    """TrainingError that names who holds `port`, where somebody does."""
    kind = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(kind) as probe:
        if kind == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch: what is only closing does not hold it
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError as problem:
            raise TrainingError(taken(port)) from problem


def taken(port: int) -> str:
    """What to say of a port that another process listens at."""
    return (
        f"port {port} of {socket.gethostname()} is in use by {holder_of(port)}; end that, or set MASTER_PORT to another number "
        "on all machines"
    )


def holder_of(port: int) -> str:
    """The process that listens at `port` of this machine, in words, as far as this user may know (Linux)."""
    nodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.is_file() else ():
            words = line.split()
            if words[3] == _LISTENS and int(words[1].rpartition(":")[2], 16) == port:
                nodes.add(f"socket:[{words[9]}]")
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            if any(str(link.readlink()) in nodes for link in folder.iterdir()):
                command = (folder.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {folder.parent.name} ({command[:120]})"
    return "a process that this user may not see"
