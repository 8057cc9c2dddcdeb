"""Addresses: which of them are on the open Internet, and where a name leads.

Does not know what is asked there.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

_OPEN_6 = ipaddress.ip_network("2000::/3")
"""Addresses of version 6 that are given out. Everything else stays within a site, a machine or a protocol: NAT64 (64:ff9b::/96)
and those with one of version 4 inside (::ffff:0:0/96) too."""
_WITHIN_6 = tuple(
    map(ipaddress.ip_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))  # Teredo and such, examples, 6to4
)
_WITHIN_4 = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24")))  # of protocols, relays of 6to4


def is_public(address: str) -> bool:
    """Whether an address, as numbers, is one that anybody may have: no own machine, own network, group, relay or reserve."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # a name
        return False
    if found.version == 6:
        return found in _OPEN_6 and found.is_global and not any(found in net for net in _WITHIN_6)
    shut = found.is_multicast or found.is_reserved or any(found in net for net in _WITHIN_4)
    return found.is_global and not shut


async def addresses_of(host: str, port: int) -> list[str]:
    """The addresses that a name leads to now, as numbers; none where it leads nowhere."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(place[0]) for *_, place in found))
