"""What ClearML tells of tenants as a whole: running work, resources, policies, groups, login rules, identity providers.

Values only; how they are read from the wire is in clients/clearml_platform_types.py. `raw` is what the server told of
an item: fields that are not known here go back to it as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Raw = Mapping[str, Any]


@dataclass(frozen=True)
class TenantInfo:
    """A tenant as the tenant API of newer servers knows it."""

    id: str
    name: str
    admin_emails: tuple[str, ...]
    company_id: str


@dataclass(frozen=True)
class TenantResources:
    """What a tenant has running, by kind (tasks, connected_workers ...), and what it has at all."""

    running: Mapping[str, int]
    totals: Mapping[str, int]

    @property
    def idle(self) -> bool:
        return not any(self.running.values())


@dataclass(frozen=True)
class GroupInfo:
    """A group of a company's users. `system` ones are ClearML's own: users, admins, queue_admins."""

    id: str
    name: str
    system: bool
    users: tuple[str, ...]


@dataclass(frozen=True)
class RouteInfo:
    """A static route of an application gateway."""

    id: str
    name: str
    enabled: bool


@dataclass(frozen=True)
class Pool:
    """Resources of one kind, in whole GPUs. `id` is empty before the server has seen it.

    `usage` is what it has given out, None where that is not told.
    """

    name: str
    resources: float
    description: str = ""
    id: str = ""
    raw: Raw = field(default_factory=dict, repr=False, compare=False)

    @property
    def usage(self) -> float | None:
        used = self.raw.get("usage")
        return float(used) if isinstance(used, int | float) else None


@dataclass(frozen=True)
class PoolLink:
    """A profile's way into a pool: what the manager lets through waits in `queue_id` until an agent takes it."""

    pool: str
    name: str = ""
    queue_id: str = ""
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Profile:
    """What one job costs, in GPUs, and the pools that it may run in, first choice first (`pool` of a link is an id)."""

    name: str
    cost: float
    links: tuple[PoolLink, ...] = ()
    id: str = ""
    raw: Raw = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class ResourceConfiguration:
    """A company's pools and profiles. `enabled` tells of the policy manager; None where it was not asked for."""

    pools: tuple[Pool, ...] = ()
    profiles: tuple[Profile, ...] = ()
    enabled: bool | None = None

    def pool(self, name: str) -> Pool | None:
        return next((pool for pool in self.pools if pool.name == name), None)

    def profile(self, name: str) -> Profile | None:
        return next((profile for profile in self.profiles if profile.name == name), None)


@dataclass(frozen=True)
class PolicyLink:
    """A profile that a policy's users may use, by the queue that was made for it."""

    profile_id: str
    queue_id: str


@dataclass(frozen=True)
class PolicyInfo:
    """A resource policy: what its group is sure of, and how far it may go. `links` are known of a single policy."""

    id: str
    name: str
    reservation: float
    limit: float
    group_id: str
    description: str = ""
    links: tuple[PolicyLink, ...] = ()


@dataclass(frozen=True)
class LoginRules:
    """Who is led into a company at their first login: domains, and single addresses with the role they get."""

    domains: tuple[str, ...]
    emails: Mapping[str, str]


@dataclass(frozen=True)
class SsoConfiguration:
    """An identity provider of a company. `settings` are as the server tells them: it may leave out the secret."""

    id: str
    provider: str
    active: bool
    settings: Mapping[str, Any] = field(repr=False, default_factory=dict)
