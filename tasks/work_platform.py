"""Work that proves the platform below ClearML: its groups of checks. What outcomes mean is in domain/work_platform.py.

The light form only reads, and asks for refusals in dry runs; the full one adds the workloads, all at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from urllib.parse import quote

from stackwright.clients.site import Site
from stackwright.domain.check import Outcome
from stackwright.domain.evidence import Evidence
from stackwright.domain.layers import observability
from stackwright.domain.spec import StackSpec
from stackwright.domain.work_platform import freshness_query, judge_freshness
from tasks.looking import CheckGroup, look_at
from tasks.work_gpus import compute
from tasks.work_ground import POLL_S, tried
from tasks.work_images import look_images, pull_image, refuse_image, refuse_privileged
from tasks.work_volumes import look_volumes, lose_node, share_volume

PATIENCE_S = 120.0
METRICS_SERVICE, METRICS_PORT = f"{observability.NAMESPACE}-victoria-metrics-0", 8428


def groups(spec: StackSpec, light: bool) -> list[CheckGroup]:
    """Return the groups of checks of a site; `light` leaves out what makes something."""
    if not spec.validation.platform:
        return []
    found = [
        _one("platform-volumes", "platform/volumes", look_volumes, spec.layers.storage.enabled, "storage"),
        CheckGroup("platform-images", lambda site: [look_at(site, "platform/images", partial(look_images, site))]),
        CheckGroup("platform-admission", look_admission),
        _one(
            "platform-observability", "platform/observability", look_observability,
            spec.layers.observability.enabled, "observability",
        ),
    ]  # fmt: skip
    return found if light else [*found, *_works()]


def _works() -> list[CheckGroup]:
    works: dict[str, Callable[[Site], Outcome]] = {
        "shared-volume": share_volume,
        "volume-loss": lose_node,
        "image-pull": pull_image,
    }
    made = [
        CheckGroup(f"platform-{name}", partial(_work, check=f"platform/{name}", run=run)) for name, run in works.items()
    ]
    return [*made, CheckGroup("platform-cuda", compute)]


def _work(site: Site, *, check: str, run: Callable[[Site], Outcome]) -> list[Evidence]:
    return [look_at(site, check, partial(tried, partial(run, site)))]


def _one(name: str, check: str, look: Callable[[Site], Outcome], enabled: bool, layer: str) -> CheckGroup:
    """Return a group of one check that only reads, skipped where its layer is disabled.

    It is looked at again for a while before it fails: this may come right after nodes were restarted.
    """

    def read(site: Site) -> Outcome:
        if not enabled:
            return Outcome("skipped", f"layers.{layer} is disabled")
        deadline = site.clock.now() + min(PATIENCE_S, site.spec.validation.platform_timeout_s)
        while (seen := look(site)).verdict == "fail" and site.clock.now() < deadline:
            site.clock.wait(POLL_S)
        return seen

    return CheckGroup(name, lambda site: [look_at(site, check, partial(read, site))])


def look_admission(site: Site) -> list[Evidence]:
    """Try what must be refused: a bad image anywhere, a privileged pod in each tenant's namespace."""
    check = "platform/privileged-refused"
    tenants = [tenant for tenant in site.spec.tenants if not tenant.suspended and site.spec.layers.clearml.enabled]
    return [
        look_at(site, "platform/image-refused", partial(refuse_image, site)),
        *(look_at(site, check, partial(refuse_privileged, site, one), target=one.name) for one in tenants),
    ]


def look_observability(site: Site) -> Outcome:
    """Ask the metrics store, through the API server, for the last data of every node."""
    path = f"/api/v1/query?query={quote(freshness_query(site.spec))}"
    answer = site.kube().service_request(observability.NAMESPACE, METRICS_SERVICE, METRICS_PORT, path=path)
    if not answer.ok:
        return Outcome("unknown", f"the metrics store answers {answer.status}: {answer.text[:120].strip()}")
    return judge_freshness(site.spec, answer.json(), site.clock.now())
