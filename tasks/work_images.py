"""Images proved by work: one pulled with the right login and not with a wrong one; bad pods refused at the door.

Refusals are dry runs: the API server does everything for a create but keep it, so they belong to the light form too.
"""

from __future__ import annotations

import secrets
from functools import partial

from stackwright.clients.site import Site
from stackwright.domain.check import Outcome
from stackwright.domain.cluster import Obj, image_of
from stackwright.domain.preflight import wants
from stackwright.domain.spec import Tenant
from stackwright.domain.tenant_isolation import agent_deployment
from stackwright.domain.values import docker_config
from stackwright.domain.work_objects import (
    PULL,
    is_pulled,
    login_block,
    privileged_pod,
    pull_pod,
    pull_secret,
    pull_trouble,
    refused_pod,
    registry_of,
)
from stackwright.domain.work_platform import (
    PullTried,
    image_to_refuse,
    judge_admission_state,
    judge_images,
    judge_privileged,
    judge_pull,
    judge_refused_image,
)
from tasks.preflight_controller import login_of, look_at_pull
from tasks.security import admin_session, asked
from tasks.work_ground import Ground, ground, refusal_of

RIGHT, WRONG = "right", "wrong"
NOBODY = "stackwright-nobody"  # no real account: wrong logins may lock one


# --- pulls -----------------------------------------------------------------------------------------------------------


def pull_image(site: Site) -> Outcome:
    """Pull a private image with the site's login and with a wrong one, each always asked of the registry."""
    image = site.spec.validation.pull_image or _tenants_image(site)
    if not image:
        return Outcome("skipped", "no tenant's agent whose image could be pulled, and no validation.pull_image")
    block = login_block(site.spec, image)
    login = login_of(site, block)
    if login is None:
        reason = f"block registry/{block} does not exist" if block else "the site file names no login of its registry"
        return Outcome("unknown", f"{image}: {reason}")
    host = registry_of(image)
    user, password = (part.get_secret_value() for part in login)
    configs = {RIGHT: docker_config(host, user, password), WRONG: docker_config(host, NOBODY, secrets.token_hex(8))}
    with ground(site, PULL) as place:
        began = site.clock.now()
        for name, config in configs.items():
            place.kube.create(pull_secret(place.space, name, config))
            place.kube.create(pull_pod(place.space, name, image, name, place.life_s))
        ended = {name: _wait_tried(place, name, began) for name in configs}
        return judge_pull(image, ended[RIGHT], ended[WRONG])


def _tenants_image(site: Site) -> str:
    """Return the image of the first tenant's agent: every job of a tenant starts with pulling from there."""
    for tenant in site.spec.tenants:
        found = agent_deployment(site.kube().list("apps/v1", "Deployment", tenant.namespace))
        if found is not None:
            return image_of(found)
    return ""


def _wait_tried(place: Ground, name: str, began: float) -> PullTried:
    return place.wait(partial(_tried, place, name, began), f"the pull by pod {name}", lambda: place.state(name))


def _tried(place: Ground, name: str, began: float) -> PullTried | None:
    pod = place.pod(name)
    spent = place.site.clock.now() - began
    if is_pulled(pod):
        return PullTried(True, "", spent)
    trouble = pull_trouble(pod)
    if not trouble:
        return None
    return PullTried(False, _first_words(place, pod) or trouble, spent)


def _first_words(place: Ground, pod: Obj) -> str:
    """Return the event of the failed pull: while it backs off, the pod's own message no longer says why."""
    about = f"involvedObject.name={pod['metadata']['name']},type=Warning"
    found = place.kube.list("v1", "Event", place.space, field_selector=about)
    said = [str(item.get("message", "")) for item in found if item.get("reason") == "Failed"]
    return max(said, key=len, default="")


def look_images(site: Site) -> Outcome:
    """Ask the registries for the images of which it is sure that nodes pull them; no layer is fetched."""
    found: dict[str, tuple[int, str]] = {}
    for pull in wants.images(site.spec):
        seen = look_at_pull(site, pull)
        text = seen.digest if seen.status == 200 else seen.error
        found[f"{pull.host}/{pull.repository}:{pull.tag}"] = (seen.status, text)
    return judge_images(found)


# --- refusals --------------------------------------------------------------------------------------------------------


def refuse_privileged(site: Site, tenant: Tenant) -> Outcome:
    """Try a privileged pod in a tenant's namespace."""
    return judge_privileged(refusal_of(site.kube(), privileged_pod(tenant.namespace)))


def refuse_image(site: Site) -> Outcome:
    """Try a pod whose image SUSE Security must refuse, where its admission control protects; else say why not."""
    if not site.spec.layers.security.enabled:
        return Outcome("skipped", "layers.security is disabled")
    kube = site.kube()
    with admin_session(site, kube) as call:
        state = asked(call, "GET", "/v1/admission/state").get("state") or {}
        idle = judge_admission_state(state)
        if idle is not None:
            return idle
        image = site.spec.validation.refused_image
        image = image or image_to_refuse(asked(call, "GET", "/v1/admission/rules").get("rules") or ())
    if not image:
        return Outcome("unknown", "no deny rule tells an image to try: name one in validation.refused_image")
    space = site.spec.tenants[0].namespace if site.spec.tenants else "default"
    return judge_refused_image(image, refusal_of(kube, refused_pod(space, image)))
