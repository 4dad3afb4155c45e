"""NeuVector's admission control: its state, its rules, how a workload would be judged, and the webhook itself.

While a custom resource holds the state, the REST API refuses to change it. Source: controller/rest/admission.go,
assessment.go, admwebhook.go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from stackwright.lab.operators.security_wire import DISABLED, INVALID, NAMESPACE, NO_OBJECT, NOT_ALLOWED, page, refusal
from stackwright.lab.operators.world import Answer, Obj, World, answer_json, merge

SERVICE = "neuvector-svc-admission-webhook"
CONFIGURATION = "neuvector-validating-admission-webhook"
WEBHOOK = f"{CONFIGURATION}.{NAMESPACE}.svc"
CRD = ("NvAdmissionControlSecurityRule", "local")
CHOICES = {"mode": ("monitor", "protect"), "default_action": ("allow", "deny"), "adm_client_mode": ("service", "url")}
ASSESSED = ("CronJob", "DaemonSet", "Deployment", "Job", "ReplicaSet", "StatefulSet", "Pod")
ALLOW, DENY = "exception", "deny"
FIRST_USER_RULE = 1000
# The product's own: deployments of system namespaces and of its own are let in.
CRITICAL: tuple[Obj, ...] = (
    {"id": 1, "value": "kube-system,kube-public,kube-node-lease", "comment": "Allow deployments in system namespaces."},
    {"id": 2, "value": NAMESPACE, "comment": "Allow deployments in NeuVector namespace"},
)


class Admission:
    """Answers for /v1/admission and /v1/assess; judges what is created."""

    def __init__(self, world: World, memory: dict[str, Any]) -> None:
        self.world = world
        self.own: dict[str, Any] = memory.setdefault(
            "admission", {"enable": False, "mode": "monitor", "default_action": "allow", "adm_client_mode": "service"}
        )
        self.user_rules: list[Obj] = memory.setdefault("admission_rules", [])
        self.cves: dict[str, list[int]] = memory.setdefault("cves", {})

    async def settle(self) -> None:
        """Keep the webhook's configuration as the state says, and answer for it."""
        if not self.state()["enable"]:
            await self.world.remove("ValidatingWebhookConfiguration", CONFIGURATION)
            return
        self.world.state.webhooks[WEBHOOK] = self.review
        await self.world.ensure(_configuration())

    def state(self) -> Obj:
        """Return the state in force: that of the custom resource, where there is one."""
        config = ((self._crd().get("spec") or {}).get("config")) or {}
        if not config:
            return {**self.own, "cfg_type": "user_created"}
        said = {"enable": config["enable"], "mode": config["mode"], "adm_client_mode": config["client_mode"]}
        return {**self.own, **said, "cfg_type": "ground"}

    def _crd(self) -> Obj:
        return self.world.find(*CRD, group="neuvector.com") or {}

    def rules(self) -> list[Obj]:
        """Return all rules in the product's order: its own, those of the custom resource, those of users; of each kind
        the exceptions first. Source: controller/rest/admission.go, handlerGetAdmissionRules."""
        own = [{**_rule(one["id"], ALLOW, [{"name": "namespace", "op": "containsAny", "value": one["value"]}]),
                "critical": True, "comment": one["comment"]} for one in CRITICAL]  # fmt: skip
        said = (self._crd().get("spec") or {}).get("rules") or ()
        crd = [
            {**_rule(500 + number, DENY if one.get("action") == "deny" else ALLOW, one.get("criteria") or []),
             "cfg_type": "ground", "disable": bool(one.get("disabled")), "rule_mode": one.get("rule_mode") or ""}
            for number, one in enumerate(said)
        ]  # fmt: skip
        parts = [sorted(part, key=lambda one: one["rule_type"] != ALLOW) for part in (crd, self.user_rules)]
        return [*own, *parts[0], *parts[1]]

    # --- answers -----------------------------------------------------------------------------------------------------

    def answer(
        self, method: str, path: str, query: Mapping[str, str], sent: Mapping[str, Any], body: bytes
    ) -> Answer | None:
        """Answer a request, or None where the path is somebody else's."""
        if path == "/v1/admission/state":
            return (
                self._change(sent) if method == "PATCH" else answer_json(200, {"state": self.state(), "k8s_env": True})
            )
        if (method, path) == ("GET", "/v1/admission/rules"):
            return answer_json(200, {"rules": page(self.rules(), {k: v for k, v in query.items() if k[:2] != "f_"})})
        if (method, path) == ("POST", "/v1/admission/rule"):
            return self._add(sent.get("config"))
        if path.startswith("/v1/admission/rule/"):
            return self._one(method, path.rpartition("/")[2])
        if (method, path) == ("POST", "/v1/assess/admission/rule"):
            return answer_json(200, self._assess(body))
        return None

    def _change(self, sent: Mapping[str, Any]) -> Answer:
        state = self.state()
        if state["cfg_type"] == "ground":
            return refusal(400, NOT_ALLOWED)
        wanted = sent.get("state")
        if not isinstance(wanted, Mapping):
            return refusal(400, INVALID)
        if any(key in wanted and wanted[key] not in choices for key, choices in CHOICES.items()):
            return refusal(400, INVALID)
        if not state["enable"] and not wanted.get("enable") and any(key in wanted for key in CHOICES):
            return refusal(400, DISABLED)
        self.own.update(merge(self.own, {key: wanted[key] for key in ("enable", *CHOICES) if key in wanted}))
        return answer_json(200, {})

    def _add(self, config: Any) -> Answer:
        good = (
            isinstance(config, Mapping)
            and config.get("cfg_type") == "user_created"
            and config.get("rule_type") in (ALLOW, DENY)
            and config.get("rule_mode") in (None, "", "monitor", "protect")
            and not (config["rule_type"] == ALLOW and config.get("rule_mode") is not None)
            and bool(config.get("criteria"))
        )
        if not good or config.get("id") in {one["id"] for one in self.rules()}:
            return refusal(400, INVALID)
        number = config.get("id") or max([FIRST_USER_RULE, *(one["id"] for one in self.user_rules)]) + 1
        made = _rule(number, config["rule_type"], config["criteria"])
        said = {key: config.get(key) or "" for key in ("rule_mode", "comment")}
        self.user_rules.append({**made, **said, "disable": bool(config.get("disable"))})
        return answer_json(200, {"rule": self.user_rules[-1]})

    def _one(self, method: str, number: str) -> Answer:
        if not number.isdigit():
            return refusal(400, INVALID)
        found = next((one for one in self.rules() if one["id"] == int(number)), None)
        if found is None:
            return refusal(404, NO_OBJECT)
        if method == "DELETE":
            if found not in self.user_rules:
                return refusal(400, NOT_ALLOWED)
            self.user_rules.remove(found)
            return answer_json(200, {})
        return answer_json(200, {"rule": found})

    def _assess(self, body: bytes) -> Obj:
        results = []
        for index, part in enumerate(filter(str.strip, body.decode("utf-8", "replace").split("\n---\n")), start=1):
            results.append({"index": index, **self._assess_one(part)})
        return {"props_unavailable": ["user", "userGroups"], "global_mode": self.state()["mode"], "results": results}

    def _assess_one(self, part: str) -> Obj:
        plain = {"name": "", "kind": "", "matched_rules": [], "allowed": True}
        try:
            obj = yaml.safe_load(part)
        except yaml.YAMLError as error:
            return {**plain, "message": f"Invalid yaml: {error}"}
        if not isinstance(obj, Mapping) or obj.get("kind") not in ASSESSED:
            return {**plain, "message": "This resource kind is not assessed by Admission Control"}
        allowed, matched = self.judge(obj)
        word = "allowed" if allowed else "denied"
        return {
            "name": obj["metadata"].get("name", ""), "kind": obj["kind"], "matched_rules": matched, "allowed": allowed,
            "message": f"<Assessment> Creation of Kubernetes {obj['kind']} is {word}.",
        }  # fmt: skip

    # --- judging -----------------------------------------------------------------------------------------------------

    def judge(self, obj: Mapping[str, Any]) -> tuple[bool, list[Obj]]:
        """Return whether a workload is let in now, and every rule that it matches, whatever its state and mode."""
        mode, allowed, matched = self.state()["mode"], True, []
        for container in _pod_spec(obj).get("containers") or ():
            hits = [rule for rule in self.rules() if self._matches(rule, obj, container)]
            matched += [_hit(rule, container) for rule in hits]
            live = [rule for rule in hits if not rule["disable"]]
            if any(rule["rule_type"] == ALLOW for rule in live):
                continue
            if any(rule["rule_type"] == DENY and (rule["rule_mode"] or mode) == "protect" for rule in live):
                allowed = False
        return allowed, matched

    def _matches(self, rule: Mapping[str, Any], obj: Mapping[str, Any], container: Mapping[str, Any]) -> bool:
        return all(self._meets(one, obj, container) for one in rule["criteria"])

    def _meets(self, one: Mapping[str, Any], obj: Mapping[str, Any], container: Mapping[str, Any]) -> bool:
        name, value, image = one["name"], str(one["value"]), str(container.get("image", ""))
        values = [part.strip() for part in value.split(",")]
        if name == "namespace":
            return obj["metadata"].get("namespace", "default") in values
        if name == "image":
            return any(image == part or image.startswith(part.rstrip("*")) for part in values)
        if name in ("cveCriticalCount", "cveHighCount"):
            return bool(self.cves.get(image, [0, 0, 0])[name == "cveHighCount"] >= int(value or 0))
        if name == "runAsPrivileged":
            return str(bool((container.get("securityContext") or {}).get("privileged"))).lower() == value
        return False

    def review(self, request: Mapping[str, Any]) -> Obj | None:
        """Answer the API server's question about an object."""
        obj = request.get("object") or {}
        allowed, _ = self.judge({"metadata": {}, **obj})
        if allowed:
            return None
        head = "<Server Dry Run> " if request.get("dryRun") else ""
        message = f"{head}Creation of Kubernetes {obj.get('kind', '')} is denied."
        return {"allowed": False, "status": {"message": message}}


def _rule(number: int, kind: str, criteria: Any) -> Obj:
    return {"id": number, "category": "Kubernetes", "comment": "", "criteria": list(criteria), "disable": False,
            "critical": False, "cfg_type": "user_created", "rule_type": kind, "rule_mode": "",
            "containers": []}  # fmt: skip


def _hit(rule: Mapping[str, Any], container: Mapping[str, Any]) -> Obj:
    told = ", ".join(f"{one['name']} {one['op']} {one['value']}" for one in rule["criteria"])
    return {
        "container_image": container.get("image", ""), "id": rule["id"], "disabled": rule["disable"],
        "type": "deny" if rule["rule_type"] == DENY else "allow", "mode": rule["rule_mode"],
        "rule_details": f"It matches rule with criteria: {told}.", "rule_cfg_type": rule["cfg_type"],
    }  # fmt: skip


def _pod_spec(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = obj.get("spec") or {}
    if obj.get("kind") == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    return spec if obj.get("kind") == "Pod" else (spec.get("template") or {}).get("spec") or {}


def _configuration() -> Obj:
    rule = {"apiGroups": ["*"], "apiVersions": ["v1"], "operations": ["CREATE"], "scope": "Namespaced",
            "resources": ["pods", "deployments", "statefulsets", "daemonsets", "jobs", "cronjobs"]}  # fmt: skip
    place = {"namespace": NAMESPACE, "name": SERVICE, "path": "/v1/validate/1"}
    hook = {"name": WEBHOOK, "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
            "clientConfig": {"service": place}, "rules": [rule], "timeoutSeconds": 30}  # fmt: skip
    meta = {"name": CONFIGURATION}
    return {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": meta,
            "webhooks": [hook]}  # fmt: skip
