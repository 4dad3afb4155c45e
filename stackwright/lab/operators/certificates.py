"""cert-manager at work: the webhook's CA, issuers' conditions, and certificates signed with the issuer's CA."""

from __future__ import annotations

import base64
import datetime
import ipaddress
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stackwright.lab.operators.world import Obj, World, condition, custom

GROUP = "cert-manager.io"
NAMESPACE_OF_CLUSTER_ISSUERS = "cert-manager"
DAYS = 90
WEBHOOK = "cert-manager-webhook"


async def cert_manager(world: World) -> None:
    """Do what cert-manager's three programs do once they run."""
    webhooks = [item for item in world.objects("Deployment") if item["metadata"]["name"] == WEBHOOK]
    if not webhooks:
        return
    ns = webhooks[0]["metadata"]["namespace"]
    if not all(world.ready("Deployment", name, ns) for name in (WEBHOOK, "cert-manager-cainjector")):
        return
    await _inject(world)
    if not world.ready("Deployment", "cert-manager", ns):
        return
    for kind in ("Issuer", "ClusterIssuer"):
        for issuer in world.objects(kind, group=GROUP):
            await world.status(issuer, {"conditions": [_issuer_condition(world, issuer)]})
    for certificate in world.objects("Certificate", group=GROUP):
        await _certificate(world, certificate)


async def _inject(world: World) -> None:
    """Give the webhook configuration its CA: until then every call of the webhook fails its TLS check."""
    found = world.find("ValidatingWebhookConfiguration", WEBHOOK)
    if found is None or all(hook["clientConfig"].get("caBundle") for hook in found["webhooks"]):
        return
    certificate, _ = _sign(None, {"commonName": "cert-manager-webhook-ca", "isCA": True})
    bundle = base64.b64encode(certificate.encode()).decode()
    hooks = [{**hook, "clientConfig": {**hook["clientConfig"], "caBundle": bundle}} for hook in found["webhooks"]]
    await world.ensure({**found, "webhooks": hooks})


def _issuer_condition(world: World, issuer: Obj) -> Obj:
    spec = issuer.get("spec") or {}
    if "ca" not in spec:
        return condition("Ready", True, "IsReady")
    ns = issuer["metadata"].get("namespace") or NAMESPACE_OF_CLUSTER_ISSUERS
    name = spec["ca"]["secretName"]
    if {"tls.crt", "tls.key"} <= set(world.secret(name, ns)):
        return condition("Ready", True, "KeyPairVerified", "Signing CA verified")
    return condition("Ready", False, "ErrGetKeyPair", f'Error getting keypair for CA issuer: secret "{name}" not found')


async def _certificate(world: World, certificate: Obj) -> None:
    spec, meta = certificate["spec"], certificate["metadata"]
    ns, wanted = meta["namespace"], spec["secretName"]
    issuer = _issuer(world, spec["issuerRef"], ns)
    if issuer is None or _issuer_condition(world, issuer)["status"] != "True":
        await world.status(
            certificate, {"conditions": [condition("Ready", False, "DoesNotExist", "Issuing certificate")]}
        )
        return
    seen = world.secret(wanted, ns)
    if not _fits(seen.get("tls.crt", ""), spec):
        ca = None
        if "ca" in issuer["spec"]:
            home = issuer["metadata"].get("namespace") or NAMESPACE_OF_CLUSTER_ISSUERS
            ca = world.secret(issuer["spec"]["ca"]["secretName"], home)
        text, key = _sign(ca, spec)
        parts = {"tls.crt": text, "tls.key": key, "ca.crt": ca["tls.crt"] if ca else text}
        data = {name: base64.b64encode(value.encode()).decode() for name, value in parts.items()}
        note = {"cert-manager.io/certificate-name": meta["name"]}
        secret = custom("v1", "Secret", wanted, {"type": "kubernetes.io/tls", "data": data}, ns)
        secret["metadata"]["annotations"] = note
        await world.ensure(secret)
        seen = parts
    loaded = x509.load_pem_x509_certificate(seen["tls.crt"].encode())
    await world.status(
        certificate,
        {
            "conditions": [condition("Ready", True, "Ready", "Certificate is up to date and has not expired")],
            "notAfter": loaded.not_valid_after_utc.isoformat().replace("+00:00", "Z"),
            "notBefore": loaded.not_valid_before_utc.isoformat().replace("+00:00", "Z"),
            "revision": 1,
        },
    )


def _issuer(world: World, ref: Mapping[str, str], ns: str) -> Obj | None:
    kind = ref.get("kind", "Issuer")
    return world.find(kind, ref["name"], "" if kind == "ClusterIssuer" else ns, group=GROUP)


def _fits(text: str, spec: Mapping[str, Any]) -> bool:
    """Say whether a certificate names what is wanted and is not due."""
    if not text:
        return False
    loaded = x509.load_pem_x509_certificate(text.encode())
    try:
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        seen: set[str] = set()
    else:
        seen = {str(name.value) for name in names}
    wanted = {*(spec.get("dnsNames") or ()), *(spec.get("ipAddresses") or ())}
    return wanted <= seen and loaded.not_valid_after_utc > datetime.datetime.now(datetime.UTC)


def _sign(ca: Mapping[str, str] | None, spec: Mapping[str, Any]) -> tuple[str, str]:
    """Return certificate and key in PEM; without a CA it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [*(spec.get("dnsNames") or ()), *(spec.get("ipAddresses") or ())]
    common = spec.get("commonName") or (names[0] if names else "certificate")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])
    now = datetime.datetime.now(datetime.UTC)
    issuer_name, issuer_key = subject, key
    if ca:
        issuer_name = x509.load_pem_x509_certificate(ca["tls.crt"].encode()).subject
        loaded = serialization.load_pem_private_key(ca["tls.key"].encode(), None)
        issuer_key = loaded  # type: ignore[assignment]  # any private key that can sign
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=bool(spec.get("isCA")), path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
    if not spec.get("isCA"):
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(usage, critical=False)
    text = builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    form = serialization.PrivateFormat.TraditionalOpenSSL
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
    return text, private


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
