"""Checks of names: every one that the site will use, from the controller and from every host. Guide: 5.1, 5.7.1."""

from __future__ import annotations

from collections.abc import Sequence

from stackwright.domain.check import Outcome
from stackwright.domain.preflight import wants
from stackwright.domain.preflight.model import Check, bad, good, names, skipped, unknown, whole_site
from stackwright.domain.preflight.seen import Case, Host
from stackwright.domain.spec import StackSpec

NOT_FOUND = 2  # getent's exit code for a name that is not there
PTR = "ptr:"


def from_controller(case: Case, subject: str) -> Outcome:
    seen = case.name(subject)
    return good(", ".join(seen.addresses)) if seen.addresses else bad(seen.error or "no address")


def answers(host: Host) -> dict[str, tuple[int, frozenset[str]]]:
    """Return what a host resolved: name to getent's exit code and the addresses."""
    return {row[0]: (int(row[1]), frozenset(row[2:])) for row in host.rows("dns")}


def from_hosts(case: Case, subject: str) -> Outcome:
    """Want the same addresses from every host. A static name is written to /etc/hosts by the deploy."""
    if subject in case.spec.dns.hosts:
        return good(f"{case.spec.dns.hosts[subject]}, by dns.hosts")
    found: dict[frozenset[str], list[str]] = {}
    dark, nowhere = [], []
    for host in case.all_hosts():
        if "dns" not in host.sections:
            dark.append(host.node.name)
            continue
        code, addresses = answers(host).get(subject, (-1, frozenset()))
        if code == NOT_FOUND:
            nowhere.append(host.node.name)
        elif code or not addresses:
            dark.append(host.node.name)
        else:
            found.setdefault(addresses, []).append(host.node.name)
    if nowhere:
        return bad(f"not found on {names(nowhere)}")
    if len(found) > 1:
        return bad("; ".join(f"{', '.join(sorted(one))} on {names(hosts)}" for one, hosts in found.items()))
    if dark or not found:
        return unknown(f"no answer on {names(dark)}")
    return good(", ".join(sorted(next(iter(found)))))


def nonsense(case: Case, subject: str) -> Outcome:
    """A name that nobody has must not be found, anywhere: a wildcard in a search domain breaks names in pods."""
    seen = case.name(subject)
    told = [f"controller: {', '.join(seen.addresses)}"] if seen.addresses else []
    dark = []
    for host in case.all_hosts():
        code, addresses = answers(host).get(subject, (-1, frozenset())) if "dns" in host.sections else (-1, frozenset())
        if addresses:
            told.append(f"{host.node.name}: {', '.join(sorted(addresses))}")
        elif code != NOT_FOUND:
            dark.append(host.node.name)
    if told:
        return bad(names(told))
    return unknown(f"no answer on {names(dark)}") if dark else good("not found, as it must be")


def wildcard(case: Case, subject: str) -> Outcome:
    """A wildcard below the base domain spares an entry for each new tenant. Without it each name has its own."""
    if any(name.endswith(case.spec.clearml.base_domain) for name in case.spec.dns.hosts):
        return skipped("the names are given by dns.hosts")
    seen = case.name(wants.new_router(case.spec))
    return good(", ".join(seen.addresses)) if seen.addresses else bad(seen.error or "no wildcard")


def reverse(case: Case, subject: str) -> Outcome:
    seen = case.name(f"{PTR}{case.host(subject).node.address}")
    return good(", ".join(seen.addresses)) if seen.addresses else bad(seen.error or "no name")


def services(spec: StackSpec) -> Sequence[str]:
    return wants.service_names(spec)


_ADD = "Add the name to your DNS, or to dns.hosts of the site file."
CHECKS: tuple[Check, ...] = (
    Check("preflight/dns/names", "the platform's names resolve on the controller", "5.1 item 1, 5.7.1 step 5",
          "an address", _ADD, from_controller, wants.platform_names, "the site uses addresses only",
          source="controller"),
    Check("preflight/dns/names-on-hosts", "the platform's names resolve alike on every host",
          "5.1 item 1, 5.7.1 step 5", "the same address everywhere", _ADD, from_hosts, wants.platform_names,
          "the site uses addresses only"),
    Check("preflight/dns/tcp-routers", "names of the tenants' TCP routers resolve", "5.7.1 step 5", "an address", _ADD,
          from_controller, wants.session_names, "no tenant has TCP ports", must=False, source="controller"),
    Check("preflight/dns/services", "names of mirrors, files and registration resolve on every host", "5.1 item 1",
          "the same address everywhere", _ADD, from_hosts, services, "the site names them by address"),
    Check("preflight/dns/nonsense", "a name that nobody has is not found", "5.1 item 1; RKE2: requirements",
          "not found",
          "Take the wildcard out of the domain, or the domain out of the search list.", nonsense, wants.nonsense_names),
    Check("preflight/dns/wildcard", "a new tenant's router has a name", "5.7.1 step 5", "*.<base domain>",
          "Add a wildcard below clearml.base_domain, or an entry for each tenant's router.", wildcard, whole_site,
          must=False, source="controller"),
    Check("preflight/dns/reverse", "hosts have a name for their address", "5.1 item 1", "a PTR record",
          "Add PTR records: logs and Kerberos use them.", reverse, must=False, source="controller"),
)  # fmt: skip
