"""What the stand-in server holds: companies, users, keys, and the objects of each company. No HTTP here."""

from __future__ import annotations

import datetime
import hashlib
import logging
import secrets
import string
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stackwright.lab.clearml.settings import find, read_settings

log = logging.getLogger(__name__)

DEFAULT_COMPANY = "d1bd92a3b039400cbafc60a7a5b1e52b"  # ClearML server: config/default/apiserver.conf
Doc = dict[str, Any]
Generation = Literal["3.29", "3.30"]
API_VERSIONS: dict[str, str] = {"3.29": "2.36", "3.30": "2.37"}


def generation_of(version: str) -> Generation:
    """Return which API a server of this version has: the tenant calls came with 3.30."""
    parts = [int(part) for part in version.split(".")[:2] if part.isdigit()]
    return "3.30" if parts >= [3, 30] else "3.29"


# Kinds of objects that belong to a company and are plain documents.
KINDS = ("projects", "tasks", "queues", "models", "routes", "groups", "policies")
# What a company has without being given it: all that the API reference names but resource_policy and sso_management.
# Which of them a licence gives is not public.
FEATURES = frozenset({
    "user_management", "user_management_advanced", "permissions", "applications", "experiments", "queues",
    "queue_management", "data_management", "config_vault", "app_management", "pipelines", "reports", "show_dashboard",
    "show_model_view", "show_projects", "resource_dashboard", "service_users", "show_datasets", "show_orchestration",
    "model_serving", "show_app_gateways", "project_workloads",
})  # fmt: skip


@dataclass
class Company:
    """One tenant. `settings` are those of system.update_company_settings."""

    id: str
    name: str
    created: float
    active: bool = True
    defaults: Doc = field(default_factory=dict)
    settings: Doc = field(default_factory=dict)


@dataclass
class Key:
    """One key pair; the secret is kept to be compared, and never told again."""

    access_key: str
    secret_key: str
    label: str = ""
    created: float = 0.0
    expire: float | None = None
    last_used: float | None = None


@dataclass
class Account:
    """One user. `configured` ones come from secure.credentials: they may not make keys for themselves, and the
    users service does not know them.
    """

    id: str
    name: str
    company: str
    email: str
    role: str
    created: float
    internal: bool = False
    service: bool = False
    configured: bool = False
    keys: list[Key] = field(default_factory=list)
    fields: Doc = field(default_factory=dict)


@dataclass
class Worker:
    """A registered worker; gone when it is silent for longer than its `timeout`."""

    id: str
    company: str
    user: str
    queues: list[str]
    timeout: float
    registered: float
    active: float
    ip: str = ""
    task: str = ""
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Allocation:
    """What the policy manager gave to one task."""

    policy: str
    pool: str
    cost: float


@dataclass
class Report:
    """The latest cluster or router report of one reporter."""

    key: str
    company: str
    at: float
    timeout: float
    body: Doc


class ClearmlState:
    """Everything the server knows.

    `record(wire, target, action)` is called before each change that a person or the product asked for. `clock` gives
    seconds since the epoch. `cut_after` names endpoints whose next answers are lost after the work was done, with the
    number of times.
    """

    def __init__(
        self,
        record: Callable[[str, str, str], None] = lambda wire, target, action: None,
        clock: Callable[[], float] = time.time,
        server_generation: Generation = "3.29",
        file_url: str = "",
    ) -> None:
        self.record = record
        self.clock = clock
        self.server_generation = server_generation
        self.file_url = file_url
        self.settings: Doc = {}
        self.token_secret = secrets.token_urlsafe(32)
        self.companies: dict[str, Company] = {}
        self.accounts: dict[str, Account] = {}
        self.docs: dict[str, dict[str, Doc]] = {kind: {} for kind in KINDS}
        self.workers: dict[tuple[str, str], Worker] = {}
        self.clusters: dict[tuple[str, str], Report] = {}
        self.routers: dict[tuple[str, str], Report] = {}
        self.events: dict[str, list[Doc]] = {}
        self.files: dict[str, bytes] = {}
        self.policy_manager: set[str] = set()
        self.resources: dict[str, Doc] = {}
        self.allocations: dict[str, Allocation] = {}
        self.cut_after: dict[str, int] = {}

    @property
    def api_version(self) -> str:
        return API_VERSIONS[self.server_generation]

    # Start of the server -----------------------------------------------------------------------------------------

    def configure(self, env: Mapping[str, str], api_key: str, api_secret: str) -> None:
        """Do what the server does at its start with its environment; existing data stays.

        Raises ConfigurationError for a value that is not HOCON. An entry of secure.credentials that is no object, as
        the guide's misprint makes one, stops the setting up of users there; the server only logs it and runs on.
        """
        self.settings = read_settings(env)
        if DEFAULT_COMPANY not in self.companies:
            self.companies[DEFAULT_COMPANY] = Company(DEFAULT_COMPANY, "clearml", self.clock())
            self.add_doc("queues", DEFAULT_COMPANY, "", {"name": "default", "system_tags": ["default"]})
        own = {"role": "system", "user_key": api_key, "user_secret": api_secret}
        configured = find(self.settings, "secure.credentials", {})
        for name, entry in {"apiserver": own, **configured}.items():
            if not isinstance(entry, Mapping):
                log.error("failed initializing users: secure.credentials.%s is a %s", name, type(entry).__name__)
                return
            entry = {**own, **entry} if name == "apiserver" else entry
            if "role" not in entry and name != "platform_management":
                log.error("failed initializing users: secure.credentials.%s has no role", name)
                return
            self._set_up_account(name, entry)

    def _set_up_account(self, name: str, entry: Mapping[str, Any]) -> None:
        account = self.accounts.get(f"__{name}__")
        role = str(entry.get("role", "system"))
        if account is None:
            email = str(entry.get("email") or f"{name}@example.com")
            account = Account(f"__{name}__", name, DEFAULT_COMPANY, email, role, self.clock(), configured=True)
            self.accounts[account.id] = account
        account.role = role
        key, secret = str(entry.get("user_key") or ""), str(entry.get("user_secret") or "")
        account.keys = [Key(key, secret, created=self.clock())] if key and secret else []

    # Lookups -----------------------------------------------------------------------------------------------------

    def find_key(self, access_key: str) -> tuple[Account, Key] | None:
        """Return the account and key pair of an access key that has not expired."""
        for account in self.accounts.values():
            for key in account.keys:
                if key.access_key == access_key and (key.expire is None or key.expire > self.clock()):
                    return account, key
        return None

    def features(self, company: str) -> frozenset[str]:
        """Return the features that a company has."""
        settings = {**self.companies[company].defaults, **self.companies[company].settings}
        return (FEATURES | set(settings.get("features") or ())) - set(settings.get("exclude_features") or ())

    def of_company(self, kind: str, company: str) -> Iterator[Doc]:
        """Yield a company's documents of one kind, oldest first."""
        return (doc for doc in self.docs[kind].values() if doc["company"] == company)

    def doc(self, kind: str, company: str, doc_id: str) -> Doc | None:
        """Return a document if it belongs to the company."""
        found = self.docs[kind].get(doc_id)
        return found if found and found["company"] == company else None

    def live_workers(self, company: str) -> list[Worker]:
        """Return the company's workers that have not gone silent."""
        now = self.clock()
        self.workers = {key: worker for key, worker in self.workers.items() if now - worker.active <= worker.timeout}
        return [worker for worker in self.workers.values() if worker.company == company]

    def live_reports(self, reports: dict[tuple[str, str], Report], company: str) -> list[Report]:
        """Return the reports of a company that have not run out."""
        now = self.clock()
        for key in [key for key, report in reports.items() if now - report.at > report.timeout]:
            del reports[key]
        return [report for report in reports.values() if report.company == company]

    # Changes -----------------------------------------------------------------------------------------------------

    def add_doc(self, kind: str, company: str, user: str, fields: Mapping[str, Any]) -> Doc:
        """Store a new document with the fields that every object has."""
        doc = {
            "id": new_id(),
            "company": company,
            "user": user,
            "created": iso(self.clock()),
            "tags": [],
            "system_tags": [],
            **fields,
        }
        self.docs[kind][doc["id"]] = doc
        return doc

    def add_company(self, name: str, defaults: Doc) -> Company:
        company = Company(new_id(), name, self.clock(), defaults=defaults)
        self.companies[company.id] = company
        for group in ("users", "admins", "queue_admins"):
            self.add_doc("groups", company.id, "", {"name": group, "assignable": True, "system": True, "users": []})
        return company

    def new_key(self, account: Account, label: str, expire_s: float | None) -> Key:
        """Give an account a new key pair."""
        expire = self.clock() + expire_s if expire_s else None
        alphabet = string.ascii_uppercase + string.digits
        access_key = "".join(secrets.choice(alphabet) for _ in range(30))
        key = Key(access_key, "s" + secrets.token_urlsafe(50), label, self.clock(), expire)
        account.keys.append(key)
        return key

    # Comparison --------------------------------------------------------------------------------------------------

    def snapshot(self) -> Doc:
        """Return what two runs may be compared by: names in place of ids, no times, no secrets, nothing that runs."""
        names = {company.id: company.name for company in self.companies.values()}
        users = sorted(self.accounts.values(), key=lambda account: (names[account.company], account.email))
        return {
            "companies": {
                company.name: {
                    "active": company.active,
                    "defaults": company.defaults,
                    "settings": hashed(company.settings),
                }
                for company in sorted(self.companies.values(), key=lambda item: item.name)
            },
            "users": [
                {
                    "company": names[user.company],
                    "name": user.name,
                    "email": user.email,
                    "role": user.role,
                    "internal": user.internal,
                    "keys": sorted(key.label for key in user.keys),
                }
                for user in users
            ],
            "queues": self._by_company("queues", names, lambda doc: doc["name"]),
            "policies": self._by_company("policies", names, _policy_line),
            "resources": {names[company]: _resource_lines(store["live"]) for company, store in self.resources.items()},
            "policy managers": sorted(names[company] for company in self.policy_manager),
            "projects": self._by_company("projects", names, lambda doc: doc["name"]),
            "workers": _grouped(
                (names[w.company], f"{w.id} {self._queue_names(w.queues)}") for w in self.workers.values()
            ),
            "routers": _grouped((names[router.company], router.key) for router in self.routers.values()),
            "settings": hashed(self.settings),
        }

    def _queue_names(self, ids: list[str]) -> str:
        return ",".join(sorted(str(self.docs["queues"].get(queue, {}).get("name", "?")) for queue in ids))

    def _by_company(self, kind: str, names: Mapping[str, str], shown: Callable[[Doc], str]) -> Doc:
        return _grouped((names[doc["company"]], shown(doc)) for doc in self.docs[kind].values())


def _grouped(pairs: Iterator[tuple[str, str]]) -> Doc:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: sorted(values) for name, values in sorted(found.items())}


def _policy_line(doc: Doc) -> str:
    links = len(doc["profile_links"])
    return f"{doc['name']} reservation {doc['reservation']:g} limit {doc['limit']:g} links {links}"


def _resource_lines(live: Doc) -> list[str]:
    names = {pool["id"]: pool["name"] for pool in live["pools"]}
    pools = [f"pool {pool['name']} {pool['resources']:g}" for pool in live["pools"]]
    for profile in live["profiles"]:
        linked = ">".join(names[link["pool"]] for link in profile["pool_links"])
        pools.append(f"profile {profile['name']} {profile['profile_cost']:g} {linked}")
    return pools


def hashed(tree: Any, name: str = "") -> Any:
    """Return a configuration tree with the values of keys and secrets replaced by a short hash."""
    if isinstance(tree, Mapping):
        return {key: hashed(value, str(key)) for key, value in sorted(tree.items())}
    if any(word in name for word in ("key", "secret", "password", "token")):
        return "sha256:" + hashlib.sha256(str(tree).encode()).hexdigest()[:12]
    return tree


def new_id() -> str:
    """Return an object id: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def iso(seconds: float) -> str:
    """Return a time as the API writes it."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()
