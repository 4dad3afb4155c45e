"""Who asks, and whether they may: authentication, RBAC, impersonation and the review kinds.

Source: the pages "Authenticating", "Using RBAC Authorization" and "Authorization". Admission (quota and the like) is
elsewhere.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stackwright.lab.kube.errors import ApiFault, forbidden, unauthorized
from stackwright.lab.kube.values import dig, selects

if TYPE_CHECKING:
    from stackwright.lab.kube.state import KubeState

Obj = dict[str, Any]
RBAC = "rbac.authorization.k8s.io"
MASTERS = "system:masters"
PUBLIC_PATHS = ("/healthz", "/livez", "/readyz", "/version", "/version/")
DISCOVERY_PATHS = ("/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*", *PUBLIC_PATHS)


@dataclass(frozen=True)
class User:
    """Who sends a request."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


@dataclass(frozen=True)
class Ask:
    """What is asked: a verb on a resource, or on a plain path."""

    verb: str
    group: str = ""
    resource: str = ""  # with the subresource: pods/log
    namespace: str = ""
    name: str = ""
    path: str = ""


def service_account(namespace: str, name: str) -> User:
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return User(f"system:serviceaccount:{namespace}:{name}", groups)


def authenticate(state: KubeState, certificate: Mapping[str, Any] | None, headers: Mapping[str, str]) -> User:
    """Find out who sends the request: client certificate, bearer token, else anonymous. Raises 401 for a bad token."""
    user = None
    if certificate:
        names = [pair for part in certificate.get("subject", ()) for pair in part]
        common = next((value for key, value in names if key == "commonName"), "")
        groups = tuple(value for key, value in names if key == "organizationName")
        user = User(common, (*groups, "system:authenticated"))
    header = headers.get("Authorization", "")
    if user is None and header:
        scheme, _, token = header.partition(" ")
        user = state.tokens.get(token.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            raise unauthorized()
    if user is None:
        if not state.anonymous:
            raise unauthorized()
        user = ANONYMOUS
    return _impersonated(state, user, headers)


def _impersonated(state: KubeState, user: User, headers: Mapping[str, str]) -> User:
    name = headers.get("Impersonate-User")
    if not name:
        return user
    check(state, user, Ask("impersonate", resource="users", name=name))
    getall = getattr(headers, "getall", None)
    groups: Iterable[str] = getall("Impersonate-Group", ()) if getall else ()
    for group in groups:
        check(state, user, Ask("impersonate", resource="groups", name=group))
    if name.startswith("system:serviceaccount:"):
        return service_account(*name.split(":")[2:4])
    return User(name, (*groups, "system:authenticated"))


def allowed(state: KubeState, user: User, ask: Ask) -> bool:
    """Tell whether RBAC lets the user do it."""
    if MASTERS in user.groups:
        return True
    return any(_rule_allows(rule, ask) for rule in rules_of(state, user, ask.namespace))


def check(state: KubeState, user: User, ask: Ask) -> None:
    """Raise the API's 403 when the user may not."""
    if not allowed(state, user, ask):
        raise refusal(user, ask)


def refusal(user: User, ask: Ask) -> ApiFault:
    """Return the 403 in the server's words."""
    if ask.path:
        message = f'forbidden: User "{user.name}" cannot {ask.verb} path "{ask.path}"'
        return ApiFault(403, "Forbidden", message, {})
    scope = f'in the namespace "{ask.namespace}"' if ask.namespace else "at the cluster scope"
    why = f'User "{user.name}" cannot {ask.verb} resource "{ask.resource}" in API group "{ask.group}" {scope}'
    plural = ask.resource.partition("/")[0]
    return forbidden(ask.group, plural, ask.name, why)


def rules_of(state: KubeState, user: User, namespace: str) -> Iterator[Mapping[str, Any]]:
    """Yield every rule that holds for the user, cluster-wide and in the namespace."""
    bindings = list(state.each((RBAC, "clusterrolebindings")))
    if namespace:
        bindings += state.each((RBAC, "rolebindings"), namespace)
    for binding in bindings:
        if any(_is_subject(subject, user, binding) for subject in binding.get("subjects") or ()):
            yield from _role_rules(state, binding.get("roleRef") or {}, namespace)


def _is_subject(subject: Mapping[str, Any], user: User, binding: Mapping[str, Any]) -> bool:
    kind, name = subject.get("kind"), subject.get("name", "")
    if kind == "User":
        return bool(user.name == name)
    if kind == "Group":
        return name in user.groups
    namespace = subject.get("namespace") or binding["metadata"].get("namespace", "")
    return user.name == f"system:serviceaccount:{namespace}:{name}"


def _role_rules(state: KubeState, reference: Mapping[str, Any], namespace: str) -> Iterable[Mapping[str, Any]]:
    name = reference.get("name", "")
    if reference.get("kind") == "Role":
        role = state.peek((RBAC, "roles"), namespace, name)
        return (role or {}).get("rules") or ()
    role = state.peek((RBAC, "clusterroles"), "", name)
    if role is None:
        return ()
    return cluster_role_rules(state, role)


def cluster_role_rules(state: KubeState, role: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a ClusterRole's rules, with those of the roles that it aggregates."""
    rules = list(role.get("rules") or ())
    for selector in dig(role, "aggregationRule", "clusterRoleSelectors", default=()):
        for other in state.each((RBAC, "clusterroles")):
            if other is not role and selects(selector, other["metadata"].get("labels") or {}):
                rules += other.get("rules") or ()
    return rules


def _rule_allows(rule: Mapping[str, Any], ask: Ask) -> bool:
    verbs = rule.get("verbs") or ()
    if "*" not in verbs and ask.verb not in verbs:
        return False
    if ask.path:
        return any(_path_fits(item, ask.path) for item in rule.get("nonResourceURLs") or ())
    groups, resources, names = rule.get("apiGroups") or (), rule.get("resources") or (), rule.get("resourceNames")
    if "*" not in groups and ask.group not in groups:
        return False
    below = ask.resource.partition("/")[2]
    if not {"*", ask.resource} & set(resources) and not (below and f"*/{below}" in resources):
        return False
    return not names or ask.name in names


def _path_fits(pattern: str, path: str) -> bool:
    return pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern[:-1]))


# --- reviews ---------------------------------------------------------------------------------------------------------


def review(state: KubeState, user: User, kind: str, body: Obj) -> Obj:
    """Answer one of the review kinds."""
    spec = body.get("spec") or {}
    if kind == "TokenReview":
        found = state.tokens.get(spec.get("token", ""))
        return {**body, "status": {"authenticated": bool(found)} | ({"user": _user_info(found)} if found else {})}
    if kind == "SelfSubjectReview":
        return {**body, "status": {"userInfo": _user_info(user)}}
    if kind == "SelfSubjectRulesReview":
        rules = [*rules_of(state, user, spec.get("namespace", ""))]
        if MASTERS in user.groups:
            rules += [
                {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
                {"verbs": ["*"], "nonResourceURLs": ["*"]},
            ]
        resource = [dict(rule) for rule in rules if rule.get("resources")]
        plain = [
            {"verbs": rule["verbs"], "nonResourceURLs": rule["nonResourceURLs"]}
            for rule in rules
            if rule.get("nonResourceURLs")
        ]
        return {**body, "status": {"resourceRules": resource, "nonResourceRules": plain, "incomplete": False}}
    asked = user if kind == "SelfSubjectAccessReview" else User(spec.get("user", ""), tuple(spec.get("groups") or ()))
    good = allowed(state, asked, _ask(spec))
    return {**body, "status": {"allowed": good} | ({"reason": "RBAC: allowed"} if good else {})}


def _ask(spec: Mapping[str, Any]) -> Ask:
    plain = spec.get("nonResourceAttributes")
    if plain:
        return Ask(plain.get("verb", ""), path=plain.get("path", ""))
    wanted = spec.get("resourceAttributes") or {}
    resource = wanted.get("resource", "")
    if wanted.get("subresource"):
        resource += f"/{wanted['subresource']}"
    return Ask(
        wanted.get("verb", ""), wanted.get("group", ""), resource, wanted.get("namespace", ""), wanted.get("name", "")
    )


def _user_info(user: User | None) -> Obj:
    return {"username": user.name, "groups": list(user.groups)} if user else {}


def new_token(state: KubeState, namespace: str, name: str) -> str:
    """Issue a token for a ServiceAccount, in the shape of a JWT."""
    parts = [secrets.token_bytes(size) for size in (27, 60, 48)]
    token = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    state.tokens[token] = service_account(namespace, name)
    return token


def default_rules() -> list[Obj]:
    """Return the cluster roles and bindings that every cluster starts with (the ones that matter here)."""
    everything = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]}]
    reads, writes = ["get", "list", "watch"], ["create", "delete", "deletecollection", "patch", "update"]
    shown = [
        _rule(
            "",
            "bindings,configmaps,endpoints,events,limitranges,namespaces,persistentvolumeclaims,pods,pods/log,"
            "pods/status,replicationcontrollers,resourcequotas,serviceaccounts,services",
            reads,
        ),
        _rule("apps", "controllerrevisions,daemonsets,deployments,replicasets,statefulsets", reads),
        _rule("batch", "cronjobs,jobs", reads),
        _rule("autoscaling", "horizontalpodautoscalers", reads),
        _rule("networking.k8s.io", "ingresses,networkpolicies", reads),
        _rule("policy", "poddisruptionbudgets", reads),
        _rule("discovery.k8s.io", "endpointslices", reads),
    ]
    changed = [
        _rule(
            "",
            "configmaps,events,persistentvolumeclaims,pods,pods/eviction,replicationcontrollers,secrets,"
            "serviceaccounts,services,services/proxy,pods/proxy,pods/exec,serviceaccounts/token",
            [*writes, *reads],
        ),
        _rule("apps", "daemonsets,deployments,deployments/scale,replicasets,statefulsets", writes),
        _rule("batch", "cronjobs,jobs", writes),
        _rule("autoscaling", "horizontalpodautoscalers", writes),
        _rule("networking.k8s.io", "ingresses,networkpolicies", writes),
        _rule("policy", "poddisruptionbudgets", writes),
        _rule("coordination.k8s.io", "leases", [*writes, *reads]),
    ]
    own = [
        _rule(RBAC, "roles,rolebindings", [*writes, *reads]),
        _rule("authorization.k8s.io", "localsubjectaccessreviews", ["create"]),
    ]
    basic = [_rule("authorization.k8s.io", "selfsubjectaccessreviews,selfsubjectrulesreviews", ["create"]),
             _rule("authentication.k8s.io", "selfsubjectreviews", ["create"])]  # fmt: skip
    return [
        _cluster_role("cluster-admin", everything),
        _aggregate("admin"), _aggregate("edit"), _aggregate("view"),
        _cluster_role("system:aggregate-to-admin", own, "admin"),
        _cluster_role("system:aggregate-to-edit", changed, "edit", "admin"),
        _cluster_role("system:aggregate-to-view", shown, "view", "edit", "admin"),
        _cluster_role("system:basic-user", basic),
        _cluster_role("system:discovery", [{"nonResourceURLs": list(DISCOVERY_PATHS), "verbs": ["get"]}]),
        _cluster_role("system:public-info-viewer", [{"nonResourceURLs": list(PUBLIC_PATHS), "verbs": ["get"]}]),
        _bind("cluster-admin", [MASTERS]),
        _bind("system:basic-user", ["system:authenticated"]),
        _bind("system:discovery", ["system:authenticated"]),
        _bind("system:public-info-viewer", ["system:authenticated", "system:unauthenticated"]),
    ]  # fmt: skip


def _rule(group: str, resources: str, verbs: list[str]) -> Obj:
    return {"apiGroups": [group], "resources": resources.split(","), "verbs": verbs}


def _cluster_role(name: str, rules: list[Obj], *into: str) -> Obj:
    labels = {"kubernetes.io/bootstrapping": "rbac-defaults"}
    labels |= {f"{RBAC}/aggregate-to-{role}": "true" for role in into}
    meta = {"name": name, "labels": labels}
    return {"apiVersion": f"{RBAC}/v1", "kind": "ClusterRole", "metadata": meta, "rules": rules}


def _aggregate(name: str) -> Obj:
    selector = {"matchLabels": {f"{RBAC}/aggregate-to-{name}": "true"}}
    return {**_cluster_role(name, []), "aggregationRule": {"clusterRoleSelectors": [selector]}}


def _bind(role: str, groups: list[str]) -> Obj:
    subjects = [{"apiGroup": RBAC, "kind": "Group", "name": group} for group in groups]
    meta = {"name": role, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}
    reference = {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": meta,
        "roleRef": reference,
        "subjects": subjects,
    }
