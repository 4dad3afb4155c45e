"""Checks of what lies around the hosts: registries, charts, files, certificates, blocks, store, tools, and a running
cluster. Guide: 5.2 to 5.9.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stackwright.domain.check import Outcome
from stackwright.domain.layers.shared import STORAGE_CLASS, ingress_class
from stackwright.domain.node_facts import FactUnknownError
from stackwright.domain.preflight import wants
from stackwright.domain.preflight.hosts import named
from stackwright.domain.preflight.model import (
    Check,
    bad,
    every_node,
    good,
    held,
    names,
    skipped,
    unknown,
    whole_site,
)
from stackwright.domain.preflight.seen import Case, ClusterSeen, Host, PairSeen
from stackwright.domain.spec import StackSpec

DAY_S = 86400.0
CA_DAYS, CERTIFICATE_DAYS = 90, 30
REFUSED = (401, 403)
HELM_MAJORS = ("3", "4")
PASSED_ON = {22: "refused", 6: "the name does not resolve", 7: "no connection", 28: "no answer in time",
             60: "the certificate is not trusted"}  # fmt: skip


# --- registries -----------------------------------------------------------------------------------------------------


def chart_keys(spec: StackSpec) -> Sequence[str]:
    return tuple(pull.key for pull in wants.charts(spec))


def image_keys(spec: StackSpec) -> Sequence[str]:
    return tuple(image_key(pull) for pull in wants.images(spec))


def image_key(pull: wants.Pull) -> str:
    """Name an image together with its registry: the same one may be asked for at several mirrors."""
    return f"{pull.host}/{pull.key}"


def registry_hosts(spec: StackSpec) -> Sequence[str]:
    found = [pull.host for pull in (*wants.charts(spec), *wants.images(spec)) if pull.block]
    return tuple(dict.fromkeys(found))


def pulled(case: Case, subject: str) -> Outcome:
    """A refused login is the login check's finding: here it is told, and not counted twice."""
    seen = case.pull(subject)
    if seen.status == 200:
        return good(seen.digest[:19] or "there")
    if seen.status in REFUSED:
        return unknown(f"the registry refuses the login ({seen.status})")
    return bad(seen.error or f"HTTP {seen.status}")


def login(case: Case, subject: str) -> Outcome:
    spec = case.spec
    keys = [pull.key for pull in wants.charts(spec) if pull.block and pull.host == subject]
    keys += [image_key(pull) for pull in wants.images(spec) if pull.block and pull.host == subject]
    seen = [case.pull(key) for key in keys]
    refused = [key for key, one in zip(keys, seen, strict=True) if one.status in REFUSED]
    if refused:
        return bad(f"refused for {names(refused)}")
    if all(one.status == 0 for one in seen):
        raise FactUnknownError("no answer", seen=seen[0].error if seen else "no answer")
    return good("accepted")


def clearml_charts(spec: StackSpec) -> Sequence[str]:
    """Where ClearML's own token opens its charts: not behind a mirror."""
    return () if spec.charts.mirror or not spec.layers.clearml.enabled else (spec.site,)


def clearml_token(case: Case, subject: str) -> Outcome:
    block = case.spec.clearml.registry_block
    keys = [pull.key for pull in wants.charts(case.spec) if pull.block == block]
    seen = [case.pull(key) for key in keys]
    if any(one.status in REFUSED for one in seen):
        return bad("refused: the token has expired, or is another customer's")
    if not any(one.status == 200 for one in seen):
        raise FactUnknownError("no answer", seen=seen[0].error if seen else "no chart of ClearML's")
    return good(f"opens {names(keys)}")


def fetched(prefix: str) -> Callable[[Case, str], Outcome]:
    """Make a judge of the addresses that a host fetches whose key begins like this."""

    def judge(case: Case, subject: str) -> Outcome:
        host = case.host(subject)
        wrong: list[str] = []
        right: list[str] = []
        for index, one in enumerate(wants.fetches(case.spec)):
            if one.key.startswith(prefix):
                ok, seen = _answer(host, index, one)
                (right if ok else wrong).append(f"{one.url}: {seen}")
        return bad(names(wrong)) if wrong else good(f"{len(right)} address(es) answer")

    return judge


def _answer(host: Host, index: int, one: wants.Fetch) -> tuple[bool, str]:
    name = f"fetch_{index}"
    section = host.sections.get(name)
    if section is None or section.rc in (126, 127):
        host.text(name)  # raises with the reason
    lines = section.out.strip().splitlines() if section else []
    status = lines[-1][-3:] if lines else "000"
    rc = section.rc if section else 1
    if rc:
        return False, PASSED_ON.get(rc, f"curl ended with {rc}")
    needs_content = one.key == "artifacts"
    ok = status == "200" if needs_content else status not in ("000", "404") and not status.startswith("5")
    return ok, f"HTTP {status}"


def with_fetch(prefix: str) -> Callable[[StackSpec], Sequence[str]]:
    def subjects(spec: StackSpec) -> Sequence[str]:
        return every_node(spec) if any(one.key.startswith(prefix) for one in wants.fetches(spec)) else ()

    return subjects


def blob(case: Case, subject: str) -> Outcome:
    """Compare the sum of what the host fetched from each registry with the digest that the controller was given."""
    host = case.host(subject)
    found = blobs(case)
    if not found:
        raise FactUnknownError("no digest", seen="the controller was given no digest to fetch")
    wrong = []
    for index, (key, digest) in enumerate(found):
        seen = host.text(f"blob_{index}").split()
        if not seen or f"sha256:{seen[0]}" != digest:
            wrong.append(key)
    return bad(f"not the image's bytes: {names(wrong)}") if wrong else good(f"{len(found)} image(s), digest checked")


def blobs(case: Case) -> list[tuple[str, str]]:
    """Return (image, digest of its configuration) of each image that the controller found, in the script's order."""
    pulls = case.controller.pulls
    keys = image_keys(case.spec)
    return [(key, pulls[key].blob) for key in keys if key in pulls and pulls[key].blob]


# --- certificates ---------------------------------------------------------------------------------------------------


def site_ca(spec: StackSpec) -> Sequence[str]:
    block = spec.ingress.ca_block
    return (f"certificate/{block}",) if spec.ingress.tls == "private-ca" and block and _has_layers(spec) else ()


def own_certificate(spec: StackSpec) -> Sequence[str]:
    block = spec.ingress.certificate_block
    return (f"certificate/{block}",) if spec.ingress.tls == "secret" and block and _has_layers(spec) else ()


def any_pair(spec: StackSpec) -> Sequence[str]:
    return (*site_ca(spec), *own_certificate(spec))


def _has_layers(spec: StackSpec) -> bool:
    return bool(set(wants.platform_names(spec)) - {spec.rke2.registration_address})


def pair(case: Case, subject: str) -> PairSeen:
    """Return a certificate. One whose block is missing is the block check's finding."""
    found = case.controller.blocks.get(subject)
    if found is not None and not found.exists:
        raise FactUnknownError("no block", seen="the block does not exist")
    return case.pair(subject).known()


def is_ca(case: Case, subject: str) -> Outcome:
    seen = pair(case, subject)
    return held(seen.is_ca, f"{seen.subject}: {'a CA' if seen.is_ca else 'no CA'}")


def key_fits(case: Case, subject: str) -> Outcome:
    seen = pair(case, subject)
    return held(seen.key_fits, "the key is the certificate's" if seen.key_fits else "another key")


def days(least: int) -> Callable[[Case, str], Outcome]:
    def judge(case: Case, subject: str) -> Outcome:
        seen = pair(case, subject)
        if case.controller.now_s < seen.not_before_s:
            return bad("not valid yet")
        left = (seen.not_after_s - case.controller.now_s) / DAY_S
        return held(left >= least, f"{left:.0f} days left" if left >= 0 else f"expired {-left:.0f} days ago")

    return judge


def covers(case: Case, subject: str) -> Outcome:
    seen = pair(case, subject)
    wanted = [name for name in wants.platform_names(case.spec) if name != case.spec.rke2.registration_address]
    missing = [name for name in wanted if not any(_matches(name, pattern) for pattern in seen.names)]
    return bad(f"not in it: {names(missing)}") if missing else good(f"all {len(wanted)} names")


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return name.partition(".")[2] == pattern[2:]
    return name == pattern


def chain(case: Case, subject: str) -> Outcome:
    seen = pair(case, subject)
    return held(seen.chain_ok, "each signed by the next" if seen.chain_ok else "broken")


def ca_places(spec: StackSpec) -> Sequence[str]:
    return tuple(wants.ca_files(spec))


def ca_file(case: Case, subject: str) -> Outcome:
    if subject not in case.controller.files:
        raise FactUnknownError("not looked at", seen="the file was not looked at")
    said = case.controller.files[subject]
    return bad(said) if said else good(wants.ca_files(case.spec)[subject])


# --- blocks ---------------------------------------------------------------------------------------------------------


def block_keys(spec: StackSpec) -> Sequence[str]:
    return tuple(block.key for block in wants.blocks(spec))


def exists(case: Case, subject: str) -> Outcome:
    wanted = next(block for block in wants.blocks(case.spec) if block.key == subject)
    if case.block(subject).exists:
        return good("there")
    return good("the deploy makes it") if wanted.made else bad(f"missing, named by {wanted.place}")


def filled(case: Case, subject: str) -> Outcome:
    seen = case.block(subject)
    if not seen.exists:
        return skipped("there is no such block")
    return held(not seen.empty, f"empty: {names(seen.empty)}" if seen.empty else "all fields")


def shaped(case: Case, subject: str) -> Outcome:
    seen = case.block(subject)
    if not seen.exists:
        return skipped("there is no such block")
    return held(not seen.flaws, names(seen.flaws) or "as it should look")


# --- store, tools, cluster ------------------------------------------------------------------------------------------


def store_places(spec: StackSpec) -> Sequence[str]:
    return tuple(wants.stores(spec))


def store(case: Case, subject: str) -> Outcome:
    if subject not in case.controller.stores:
        raise FactUnknownError("not looked at", seen="the store was not looked at")
    said = case.controller.stores[subject]
    return bad(said) if said else good("listed")


def helm(case: Case, subject: str) -> Outcome:
    if "helm" not in case.controller.tools:
        raise FactUnknownError("not looked at", seen="helm was not looked for")
    version = case.controller.tools["helm"]
    if not version:
        return bad("not installed")
    return held(version.lstrip("v").split(".")[0] in HELM_MAJORS, version)


def kubectl(case: Case, subject: str) -> Outcome:
    if "kubectl" not in case.controller.tools:
        raise FactUnknownError("not looked at", seen="kubectl was not looked for")
    return held(bool(case.controller.tools["kubectl"]), case.controller.tools["kubectl"] or "not installed")


def cluster(judge: Callable[[Case, ClusterSeen], Outcome]) -> Callable[[Case, str], Outcome]:
    """Make a judge of a running cluster; before there is one, nothing is checked."""

    def wrapped(case: Case, subject: str) -> Outcome:
        seen = case.controller.cluster
        return skipped("there is no cluster yet") if seen is None else judge(case, seen.known())

    return wrapped


def answers(case: Case, subject: str) -> Outcome:
    seen = case.controller.cluster
    if seen is None:
        return skipped("there is no cluster yet")
    return bad(seen.error) if seen.error else good(f"{seen.nodes} node(s)")


def default_class(case: Case, seen: ClusterSeen) -> Outcome:
    found = seen.default_classes
    if not found and case.spec.layers.storage.enabled:
        return good(f"none yet; the deploy makes {STORAGE_CLASS}")
    return held(len(found) == 1, names(found) or "none")


def classes(case: Case, seen: ClusterSeen) -> Outcome:
    wanted = ingress_class(case.spec)
    if not wanted:
        return skipped("the site has no ingress controller of RKE2's")
    return held(wanted in seen.ingress_classes, names(seen.ingress_classes) or "none")


def ready(case: Case, seen: ClusterSeen) -> Outcome:
    return held(not seen.not_ready, f"not ready: {names(seen.not_ready)}" if seen.not_ready else f"all {seen.nodes}")


def pressure(case: Case, seen: ClusterSeen) -> Outcome:
    return held(not seen.pressures, names(seen.pressures) or "none")


def foreign(case: Case, seen: ClusterSeen) -> Outcome:
    return held(not seen.foreign, names(seen.foreign) or "none")


def artifacts(case: Case, subject: str) -> Outcome:
    _, _, facts = named(case, subject)
    if facts.rke2.version == case.spec.rke2.version:
        return skipped("this release is installed")
    return fetched("artifacts")(case, subject)


def registration_reached(case: Case, subject: str) -> Outcome:
    """A host that is registered asks the server for updates only: then silence is told, and stops nothing."""
    outcome = fetched("registration")(case, subject)
    host = case.host(subject)
    products = host.facts.products if host.facts else {}
    done = bool(products) and all(status.lower() == "registered" for status in products.values())
    if outcome.verdict == "fail" and done:
        return skipped(f"registered already; {outcome.seen}")
    return outcome


_MIRROR = "Mirror it, or correct the version, the mirror's address or its rewrites in the site file."
_LOGIN = "Correct user and token in the block, and what the registry lets them read."

CHECKS: tuple[Check, ...] = (
    Check("preflight/registration/server", "hosts reach the registration server", "5.1", "an answer over HTTPS",
          "Open the way to it, set a proxy, or use an RMT server.", registration_reached, with_fetch("registration"),
          "hosts are not registered"),
    Check("preflight/registration/repositories", "hosts reach the package repositories", "5.1", "an answer over HTTPS",
          "Correct the address of packages.repositories, or open the way to it.", fetched("repository"),
          with_fetch("repository"), "the site file names no repositories"),
    Check("preflight/registries/charts", "every chart is there in its version", "5.3-5.9", "the version's manifest",
          _MIRROR, pulled, chart_keys, "the site has no layers", source="controller"),
    Check("preflight/registries/images", "one real image of each registry is there", "5.2, 4.7", "the image's manifest",
          _MIRROR, pulled, image_keys, "images come from archives", source="controller"),
    Check("preflight/registries/login", "registries accept the logins", "5.7.1 step 6", "accepted", _LOGIN, login,
          registry_hosts, "no registry has a login", source="controller"),
    Check("preflight/registries/clearml", "ClearML's token opens its charts", "5.7.1 step 6", "accepted",
          "Ask ClearML for a new token and keep it in clearml.registry_block.", clearml_token, clearml_charts,
          "charts come from a mirror", source="controller"),
    Check("preflight/registries/reached", "hosts reach the registries", "5.2, 4.7", "an answer over HTTPS",
          "Open the way to it, give the right CA file, or set a proxy.", fetched("registry "), with_fetch("registry "),
          "images come from archives"),
    Check("preflight/registries/pull", "hosts get an image's bytes from each registry", "5.2, 4.7",
          "the digest of the manifest", _LOGIN, blob,
          lambda spec: every_node(spec) if wants.images(spec) else (), "images come from archives"),
    Check("preflight/rke2/artifacts", "hosts reach RKE2's files", "5.2 step 1", "the release's list of sums",
          "Put the release there, or correct rke2.artifacts.", artifacts, with_fetch("artifacts"),
          "the controller sends them"),
    Check("preflight/certificates/ca", "the site's CA is a CA", "5.7.1 step 5", "a CA certificate",
          "Put a CA certificate with its key into ingress.ca_block.", is_ca, site_ca, "the site has no CA of its own",
          source="controller"),
    Check("preflight/certificates/key", "the key is the certificate's", "5.7.1 step 5", "the same public key",
          "Put certificate and key of one pair into the block.", key_fits, any_pair, "the site has no certificate",
          source="controller"),
    Check("preflight/certificates/ca-days", "the CA lasts", "5.2 Certificate Management", f"{CA_DAYS} days",
          "Make a new CA and have it trusted before this one ends.", days(CA_DAYS), site_ca,
          "the site has no CA of its own", source="controller"),
    Check("preflight/certificates/days", "the certificate lasts", "5.2 Certificate Management",
          f"{CERTIFICATE_DAYS} days", "Renew it and put it into ingress.certificate_block.", days(CERTIFICATE_DAYS),
          own_certificate, "cert-manager makes the certificates", source="controller"),
    Check("preflight/certificates/names", "the certificate holds every name", "5.7.1 step 5",
          "all names of the platform",
          "Have it made for all names, or for wildcards of both domains.", covers, own_certificate,
          "cert-manager makes the certificates", source="controller"),
    Check("preflight/certificates/chain", "the certificate's chain is whole", "5.7.1 step 5", "each signed by the next",
          "Append the intermediate certificates, in order.", chain, any_pair, "the site has no certificate",
          source="controller"),
    Check("preflight/certificates/ca-files", "CA files of the site file can be read", "5.2 Certificate Management",
          "PEM certificates that are valid now", "Put the file on the controller, or correct its path.", ca_file,
          ca_places, "the site file names none", source="controller"),
    Check("preflight/secrets/blocks", "blocks of the site file exist", "5.2 Security, 5.7.1 step 6", "the block",
          "Make it: stackwright block set KIND NAME ...", exists, block_keys, source="controller"),
    Check("preflight/secrets/fields", "blocks have their fields", "5.2 Security", "no empty field",
          "Set the field: stackwright block set KIND NAME FIELD=@file", filled, block_keys, source="controller"),
    Check("preflight/secrets/shape", "secrets look like what they are", "5.7.1 step 6, 5.4",
          "no space around, no placeholder, the kind's own form", "Paste the value again, whole and without quotes.",
          shaped, block_keys, source="controller"),
    Check("preflight/store/reached", "the backup store can be listed", "5.2 etcd Data Protection", "a listing",
          "Look at the store's address, bucket, key and CA.", store, store_places, "the site has no backup store",
          must=False, source="controller"),
    Check("preflight/controller/helm", "helm is there", "5.7.1 step 2", "Helm 3 or 4",
          "Install helm, or set STACKWRIGHT_TOOLS.", helm, whole_site, source="controller"),
    Check("preflight/controller/kubectl", "kubectl is there", "5.7.1 step 2", "kubectl, for people",
          "Install kubectl; Stackwright itself does without.", kubectl, whole_site, must=False, source="controller"),
    Check("preflight/cluster/answers", "the cluster answers", "5.2", "an answer of the API",
          "Look at the servers first.",
          answers, whole_site, source="cluster"),
    Check("preflight/cluster/storage-class", "one default storage class", "5.7.1 step 5", "one",
          "Leave one class with storageclass.kubernetes.io/is-default-class.", cluster(default_class), whole_site,
          source="cluster"),
    Check("preflight/cluster/ingress-class", "the ingress class is there", "5.7.1 step 5",
          lambda spec: ingress_class(spec) or "none", "Look at RKE2's ingress controller in kube-system.",
          cluster(classes), whole_site, source="cluster"),
    Check("preflight/cluster/nodes-ready", "every node is ready", "5.2", "all",
          "Look at the node's kubelet and its CNI.",
          cluster(ready), whole_site, source="cluster"),
    Check("preflight/cluster/pressure", "no node is short of something", "5.2", "no pressure",
          "Make room on the node: it evicts pods.", cluster(pressure), whole_site, must=False, source="cluster"),
    Check("preflight/cluster/strangers", "the cluster has no nodes that the site file lacks", "5.2 Scalability", "none",
          "Add them to the site file, or take them out of the cluster.", cluster(foreign), whole_site, must=False,
          source="cluster"),
)  # fmt: skip
