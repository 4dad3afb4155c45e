"""ClearML's releases at work: the stand-ins of server, agents and gateways run while their Deployments are ready."""

from __future__ import annotations

import json
from typing import Any

from stackwright.lab.operators.world import AgentFacts, GatewayFacts, Obj, ServerFacts, World, environment, image_tag

PORTS = {"apiserver": 8008, "fileserver": 8081, "webserver": 8080}


async def clearml(world: World) -> None:
    """Start what has come up, stop what has gone."""
    if world.clearml is None:
        return
    await _servers(world)
    await _agents(world)
    await _gateways(world)


def _running(world: World, kind: str) -> dict[tuple[str, str], Any]:
    running: dict[tuple[str, str], Any] = world.memory.setdefault(f"clearml/{kind}", {})
    return running


def _key(item: Obj) -> tuple[str, str]:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _ready(world: World, component: str) -> dict[tuple[str, str], Obj]:
    found = world.workloads("Deployment", **{"app.kubernetes.io/component": component})
    return {
        _key(item): item
        for item in found
        if world.ready("Deployment", item["metadata"]["name"], item["metadata"]["namespace"])
    }


async def _servers(world: World) -> None:
    if world.clearml is None:
        return
    running = _running(world, "servers")
    up: dict[tuple[str, str], ServerFacts] = {}
    for (ns, name), deployment in _ready(world, "apiserver").items():
        full = name.removesuffix("-apiserver")
        if all(world.ready("Deployment", f"{full}-{part}", ns) for part in PORTS):
            env = (world.find("ConfigMap", f"{full}-apiserver-env", ns) or {}).get("data") or {}
            up[ns, full] = ServerFacts(ns, full, image_tag(deployment), world.secret(f"{full}-conf", ns), env)
    for key in set(running) - set(up):
        for part, port in PORTS.items():
            world.serve(key[0], f"{key[1]}-{part}", (port, "http"), None)
        await world.clearml.server_down(*key)
        del running[key]
    for key, facts in up.items():
        if running.get(key) != facts:
            backends = await world.clearml.server_up(facts)
            for part, backend in backends.items():
                world.serve(key[0], f"{key[1]}-{part}", (PORTS[part], "http"), backend)
            running[key] = facts


async def _agents(world: World) -> None:
    if world.clearml is None:
        return
    running = _running(world, "agents")
    up = {}
    for (ns, name), deployment in _ready(world, "agentk8sglue").items():
        env, login = environment(deployment), world.secret(_env_secret(deployment), ns)
        queues = ((world.find("ConfigMap", f"{name}-queues", ns) or {}).get("data") or {}).get("queues.json", "{}")
        up[ns, name] = AgentFacts(
            ns,
            name,
            env.get("CLEARML_API_HOST", ""),
            json.loads(queues),
            env.get("K8S_GLUE_CREATE_QUEUES") == "true",
            login.get("agentk8sglue_key", ""),
            login.get("agentk8sglue_secret", ""),
            float(env.get("K8S_GLUE_MAX_GPU") or 0),
        )
    for key in set(running) - set(up):
        await world.clearml.agent_down(*key)
        del running[key]
    for key, facts in up.items():
        if running.get(key) != facts:
            await world.clearml.agent_up(facts)
            running[key] = facts


async def _gateways(world: World) -> None:
    if world.clearml is None:
        return
    running = _running(world, "gateways")
    up = {}
    for (ns, name), deployment in _ready(world, "router").items():
        env = environment(deployment)
        if "ROUTER__API_SERVER" in env:
            login = world.secret(_env_secret(deployment), ns)
            access, secret = login.get("CLEARML_API_ACCESS_KEY", ""), login.get("CLEARML_API_SECRET_KEY", "")
            up[ns, name] = GatewayFacts(
                ns, env.get("ROUTER__NAME", name), env["ROUTER__API_SERVER"], env, access, secret
            )
    for key in set(running) - set(up):
        world.serve(*key, (80, "http"), None)
        await world.clearml.gateway_down(key[0], running[key].name)
        del running[key]
    for key, facts in up.items():
        if running.get(key) != facts:
            world.serve(*key, (80, "http"), await world.clearml.gateway_up(facts))
            running[key] = facts


def _env_secret(deployment: Obj) -> str:
    """Return the Secret that a workload takes its login from, whatever it is called (own or given)."""
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    names = [item["secretRef"]["name"] for item in container.get("envFrom") or () if "secretRef" in item]
    return names[0] if names else ""
