"""Small questions about texts that several checks ask: is this a DNS name, an address, a label, a cron line, a URL."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_KUBE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_EMAIL = re.compile(r"[^@\s\"']+@([^@\s]+)")
_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, start=1)}
_DAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_CRON_WORDS: tuple[dict[str, int], ...] = ({}, {}, {}, _MONTHS, _DAYS)
_CRON_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_CRON_SHORT = {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}


def is_label(text: str) -> bool:
    """Tell whether this is one DNS label of RFC 1123, in lower case."""
    return _LABEL.fullmatch(text) is not None


def is_dns_name(text: str, least_labels: int = 1) -> bool:
    """Tell whether this is a DNS name in lower case, without a trailing dot, and no address."""
    labels = text.split(".")
    if len(text) > 253 or len(labels) < least_labels or not all(is_label(label) for label in labels):
        return False
    return address_of(text) is None and not labels[-1].isdigit()


def address_of(text: str) -> Address | None:
    """Read an IP address; None where it is none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def network_of(text: str) -> Network | None:
    """Read a network in CIDR form without host bits; None where it is none."""
    if "/" not in text:
        return None
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def networks_of(text: str) -> tuple[Network, ...] | None:
    """Read one network, or a dual-stack pair separated by a comma, as RKE2 takes them; None where one is none."""
    found = [network_of(part.strip()) for part in text.split(",")]
    return tuple(network for network in found if network) if all(found) else None


def pool_of(text: str) -> tuple[Network, ...] | None:
    """Read a MetalLB pool: a CIDR, or first-last; None where it is neither."""
    if "-" not in text:
        network = network_of(text)
        return (network,) if network else None
    first, last = (address_of(part.strip()) for part in text.split("-", 1))
    if first is None or last is None or first.version != last.version or int(first) > int(last):
        return None
    return tuple(ipaddress.summarize_address_range(first, last))


def overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def within(network: Network, others: Iterable[Network]) -> bool:
    """Tell whether a network lies inside one of the others."""
    first, last = network.network_address, network.broadcast_address
    return any(other.version == network.version and first in other and last in other for other in others)


def holds(networks: Iterable[Network], address: Address) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def is_host(text: str) -> bool:
    """Tell whether this is a DNS name or an IP address."""
    return address_of(text) is not None or is_dns_name(text)


def url_host(text: str, *schemes: str) -> str | None:
    """Return the host of a URL with one of these schemes, a valid port and no user; None where it is none."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname or ""
    if parts.scheme not in schemes or not is_host(host) or port == 0 or "@" in parts.netloc:
        return None
    return None if any(mark.isspace() for mark in text) else host


def is_label_key(text: str) -> bool:
    """Tell whether Kubernetes takes this as a label or taint key: [prefix/]name. Kubernetes: labels and selectors."""
    prefix, slash, name = text.rpartition("/")
    return _KUBE_NAME.fullmatch(name) is not None and (not slash or is_dns_name(prefix))


def is_label_value(text: str) -> bool:
    return text == "" or _KUBE_NAME.fullmatch(text) is not None


def is_email(text: str) -> bool:
    found = _EMAIL.fullmatch(text)
    return found is not None and is_dns_name(found.group(1).lower())


def is_cron(text: str) -> bool:
    """Tell whether RKE2 takes this as a schedule: five fields, or a word such as @daily."""
    fields = text.split()
    if text.strip() in _CRON_SHORT:
        return True
    return len(fields) == 5 and all(
        _is_cron_field(field, low, high, names)
        for field, (low, high), names in zip(fields, _CRON_RANGES, _CRON_WORDS, strict=True)
    )


def _is_cron_field(field: str, low: int, high: int, names: dict[str, int]) -> bool:
    for item in field.split(","):
        body, slash, step = item.partition("/")
        if slash and not (step.isdecimal() and int(step) > 0):
            return False
        if body in ("*", "?"):
            continue
        numbers = [_cron_number(part, names) for part in body.split("-", 1)]
        if any(number is None or not low <= number <= high for number in numbers):
            return False
        if len(numbers) == 2 and (numbers[0] or 0) > (numbers[1] or 0):
            return False
    return True


def _cron_number(text: str, names: dict[str, int]) -> int | None:
    return int(text) if text.isdecimal() else names.get(text.lower())


def repeated(items: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """Yield (where, first place, value) of each value that was there before; `items` are (where, value)."""
    first: dict[str, str] = {}
    for where, value in items:
        if value in first:
            yield where, first[value], value
        first.setdefault(value, where)
