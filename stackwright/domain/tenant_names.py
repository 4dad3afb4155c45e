"""A tenant's public name: where it should lead, and what is wrong with it. Pure. Guide: 5.7.1.5, 5.9."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SeenName:
    """What a name leads to. `wanted` are the addresses of the ingress controller: those of the platform's own names.

    `refused` says why the certificate that is served for the name is not good; empty where it is.
    """

    name: str
    addresses: frozenset[str] = frozenset()
    wanted: frozenset[str] = frozenset()
    refused: str = ""
    silent: str = ""

    @property
    def good(self) -> bool:
        return bool(self.addresses & self.wanted) and not self.refused and not self.silent


@dataclass(frozen=True)
class NameProblem:
    """What is wrong with a name, and what mends it."""

    what: str
    wanted: str
    seen: str
    remedy: str


def judge_name(seen: SeenName) -> NameProblem | None:
    """Return what is wrong with a name; None when it leads to the ingress controller with a good certificate."""
    wanted = ", ".join(sorted(seen.wanted)) or "the address of the ingress controller"
    if not seen.addresses:
        remedy = f"Make a DNS record for {seen.name} (or one for all names of that domain) that leads to {wanted}."
        return NameProblem("the name does not resolve", wanted, "no address", remedy)
    if not seen.wanted:
        remedy = "Make the records of the platform's own names (app.<base domain>) first: they show where it is."
        return NameProblem("the platform's own name does not resolve", wanted, "no address", remedy)
    if not seen.addresses & seen.wanted:
        remedy = f"Correct the DNS record of {seen.name}: jobs' applications would be looked for elsewhere."
        return NameProblem("the name leads elsewhere", wanted, ", ".join(sorted(seen.addresses)), remedy)
    if seen.silent:
        remedy = "Check the load balancer and the ingress controller: nothing speaks TLS at that address."
        return NameProblem("nothing answers under the name", "a TLS server", seen.silent, remedy)
    if seen.refused:
        remedy = (
            "Look at the Certificate and the Ingress in the tenant's namespace; with a certificate of your own, "
            "it must hold this name (or the domain's wildcard)."
        )
        return NameProblem(
            "the certificate is not good for the name", f"trusted, for {seen.name}", seen.refused, remedy
        )
    return None


def static_address(hosts: Mapping[str, str], name: str) -> str | None:
    """Return the address that the site file gives a name: its own, or that of the nearest `*.domain` above it."""
    if name in hosts:
        return hosts[name]
    parts = name.split(".")
    wild = (f"*.{'.'.join(parts[count:])}" for count in range(1, len(parts)))
    return next((hosts[key] for key in wild if key in hosts), None)
