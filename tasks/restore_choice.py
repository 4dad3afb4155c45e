"""Choosing a bundle, looking at the hosts and planning: what a restore does before anything is changed."""

from __future__ import annotations

from stackwright.clients.site import Site
from stackwright.clients.store import Store
from stackwright.domain.bundle import BundleError
from stackwright.domain.errors import Problem, StackError
from stackwright.domain.plan import Plan
from stackwright.domain.restore import RestoreFacts, plan_restore
from stackwright.domain.restore_checks import check_restore
from tasks.bundles import OpenBundle, backup_identity, list_bundles, open_bundle, stores
from tasks.restore_site import Bundle, read_restore


def choose_bundle(site: Site, bundle: str, *, second: bool = False) -> OpenBundle:
    """Open a bundle of the site's store by its name, or the newest one. Raises BundleError with its reason."""
    store = _store(site, second=second)
    return open_bundle(store, site.spec.site, bundle or _newest(store, site.spec.site), backup_identity(site))


def _store(site: Site, *, second: bool) -> Store:
    found = stores(site)
    if second and len(found) < 2:
        raise StackError("the site file names no second store", where="backup.second", wanted="a store", seen="none")
    return found[1 if second else 0]


def _newest(store: Store, site_name: str) -> str:
    found = list_bundles(store, site_name)
    if not found:
        remedy = "Look whether endpoint, bucket and folder are these; the second store may have one (--second)."
        problem = Problem(store.where, "there is no bundle of the site", remedy, f"bundles of {site_name}", "none")
        raise BundleError("no-bundle", "there is nothing to restore from", [problem], where=store.where)
    return found[0].id


def look_and_plan(site: Site, bundle: Bundle, replace_healthy: str) -> tuple[Plan, RestoreFacts]:
    """Look at everything and return the plan with what was seen. Raises PlanRefusedError with every reason."""
    facts = read_restore(site, bundle)
    problems = check_restore(site.spec, facts, bundle.manifest, replace_healthy)
    return plan_restore(site.spec, facts, bundle.manifest, problems), facts
