"""The block types, one for each kind of secret that a site file may name. Values are masked wherever Prefect shows
them.

Register them with `prefect block register --module blocks.types`; `stackwright setup` does so too.
"""

from __future__ import annotations

import os
from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr

from stackwright.domain.kinds import Kind

ICONS = os.environ.get("STACKWRIGHT_ICONS", "")
"""Address below which deployments/proxy/icons is served: Prefect takes no picture but by http. Set it alike for all."""


def icon(kind: Kind) -> HttpUrl | None:
    """Return the address of a kind's picture; None where nobody serves them."""
    return HttpUrl(f"{ICONS.rstrip('/')}/{kind}.svg") if ICONS else None


class SshKey(Block):
    """Key that logs in to a site's nodes."""

    _block_type_name: ClassVar[str] = "Stackwright SSH key"
    _block_type_slug: ClassVar[str] = "stackwright-ssh-key"
    _description: ClassVar[str] = "Private key for the nodes of a site. The site file names it in ssh.key_block."
    _code_example: ClassVar[str] = """
```sh
stackwright block set ssh-key fleet private_key=@/etc/stackwright/fleet.key
```
```yaml
# in the file of `stackwright setup --blocks FILE`
blocks:
  ssh-key/fleet:
    private_key: file:/etc/stackwright/fleet.key
```
"""
    _logo_url: ClassVar[HttpUrl | None] = icon("ssh-key")

    private_key: SecretStr = Field(description="Private key in OpenSSH or PEM format")
    passphrase: SecretStr = Field(default=SecretStr(""), description="Passphrase of the key; empty for none")


class SuseRegistration(Block):
    """Registration code of SUSE Customer Center or RMT, or an activation key of Multi-Linux Manager."""

    _block_type_name: ClassVar[str] = "Stackwright SUSE registration"
    _block_type_slug: ClassVar[str] = "stackwright-registration"
    _description: ClassVar[str] = "Registration code for SLES. The site file names it in registration.code_block."
    _code_example: ClassVar[str] = """
```sh
stackwright block set registration scc code=env:SCC_CODE
```
```yaml
# in the file of `stackwright setup --blocks FILE`
blocks:
  registration/scc:
    code: env:SCC_CODE
```
"""
    _logo_url: ClassVar[HttpUrl | None] = icon("registration")

    code: SecretStr = Field(description="Registration code or activation key")


class RegistryCredentials(Block):
    """Login for a container or chart registry."""

    _block_type_name: ClassVar[str] = "Stackwright registry login"
    _block_type_slug: ClassVar[str] = "stackwright-registry"
    _description: ClassVar[str] = "User and password (or token) for a registry of images or charts."
    _code_example: ClassVar[str] = """
```sh
stackwright block set registry harbor username=env:REGISTRY_USER password=-
```
```yaml
# in the file of `stackwright setup --blocks FILE`
blocks:
  registry/harbor:
    username: env:REGISTRY_USER
    password: env:REGISTRY_PASSWORD
```
"""
    _logo_url: ClassVar[HttpUrl | None] = icon("registry")

    username: SecretStr = Field(description="User name")
    password: SecretStr = Field(description="Password or access token")


class ApiKey(Block):
    """ClearML API key: the platform's supervisor, or a tenant's administrator."""

    _block_type_name: ClassVar[str] = "Stackwright ClearML key"
    _block_type_slug: ClassVar[str] = "stackwright-api-key"
    _description: ClassVar[str] = "Access key and secret key of a ClearML identity."
    _code_example: ClassVar[str] = """
```sh
stackwright block set api-key clearml-admin access_key=env:CLEARML_ACCESS secret_key=-
```
```yaml
# in the file of `stackwright setup --blocks FILE`
blocks:
  api-key/clearml-admin:
    access_key: env:CLEARML_ACCESS
    secret_key: env:CLEARML_SECRET
```
"""
    _logo_url: ClassVar[HttpUrl | None] = icon("api-key")

    access_key: SecretStr = Field(description="Access key")
    secret_key: SecretStr = Field(description="Secret key")


class S3Credentials(Block):
    """Key of the S3-compatible store that keeps the bundles."""

    _block_type_name: ClassVar[str] = "Stackwright S3 key"
    _block_type_slug: ClassVar[str] = "stackwright-s3"
    _description: ClassVar[str] = (
        "Access key and secret key of the bundle store. The site file names it in backup.credentials_block."
    )
    _code_example: ClassVar[str] = """
```sh
stackwright block set s3 backup-store access_key=env:S3_ACCESS secret_key=-
```
```yaml
# in the file of `stackwright setup --blocks FILE`
blocks:
  s3/backup-store:
    access_key: env:S3_ACCESS
    secret_key: env:S3_SECRET
```
"""
    _logo_url: ClassVar[HttpUrl | None] = icon("s3")

    access_key: SecretStr = Field(description="Access key")
    secret_key: SecretStr = Field(description="Secret key")


class ClusterAccess(Block):
    """Administrator's kubeconfig of a site's cluster, written by the deploy."""

    _block_type_name: ClassVar[str] = "Stackwright cluster access"
    _block_type_slug: ClassVar[str] = "stackwright-cluster-access"
    _description: ClassVar[str] = (
        "Kubeconfig with administrator rights. Written by the deploy; carries a one-year certificate."
    )
    _code_example: ClassVar[str] = """
```sh
stackwright block set cluster-access berlin kubeconfig=@/root/berlin.kubeconfig
```
```yaml
# in the file of `stackwright setup --blocks FILE`
blocks:
  cluster-access/berlin:
    kubeconfig: file:/root/berlin.kubeconfig
```
"""
    _logo_url: ClassVar[HttpUrl | None] = icon("cluster-access")

    kubeconfig: SecretStr = Field(description="Kubeconfig, YAML")


class SecretText(Block):
    """A token, password or licence."""

    _block_type_name: ClassVar[str] = "Stackwright secret"
    _block_type_slug: ClassVar[str] = "stackwright-secret-text"
    _description: ClassVar[str] = "One secret value: cluster token, admin password, licence key."
    _code_example: ClassVar[str] = """
```sh
stackwright block set secret-text rke2-token value=-
```
```yaml
# in the file of `stackwright setup --blocks FILE`
blocks:
  secret-text/rke2-token:
    value: env:RKE2_TOKEN
```
"""
    _logo_url: ClassVar[HttpUrl | None] = icon("secret-text")

    value: SecretStr = Field(description="The secret")


class Certificate(Block):
    """Certificate with its private key: a site CA, or a ready server certificate."""

    _block_type_name: ClassVar[str] = "Stackwright certificate"
    _block_type_slug: ClassVar[str] = "stackwright-certificate"
    _description: ClassVar[str] = "Certificate (with its chain) and private key, both PEM."
    _code_example: ClassVar[str] = """
```sh
stackwright block set certificate site-ca certificate=@ca.pem private_key=@ca.key
```
```yaml
# in the file of `stackwright setup --blocks FILE`
blocks:
  certificate/site-ca:
    certificate: file:/etc/stackwright/ca.pem
    private_key: file:/etc/stackwright/ca.key
```
"""
    _logo_url: ClassVar[HttpUrl | None] = icon("certificate")

    certificate: SecretStr = Field(description="Certificate and chain, PEM")
    private_key: SecretStr = Field(description="Private key, PEM")


class WebhookKeys(Block):
    """Keys with which one caller signs requests to the webhook receiver: two while it changes over."""

    _block_type_name: ClassVar[str] = "Stackwright webhook keys"
    _block_type_slug: ClassVar[str] = "stackwright-webhook-keys"
    _description: ClassVar[str] = "Signing keys of one caller: the current one, and the one before until it is retired."
    _code_example: ClassVar[str] = """
```sh
stackwright block set webhook-keys webhook-portal key_id=env:KEY_ID key=-
```
```yaml
# in the file of `stackwright setup --blocks FILE`
blocks:
  webhook-keys/webhook-portal:
    key_id: env:KEY_ID
    key: env:KEY
```
"""
    _logo_url: ClassVar[HttpUrl | None] = icon("webhook-keys")

    key_id: SecretStr = Field(description="Name of the current key")
    key: SecretStr = Field(description="Current key, 64 hexadecimal digits")
    previous_id: SecretStr = Field(default=SecretStr(""), description="Name of the previous key; empty for none")
    previous_key: SecretStr = Field(default=SecretStr(""), description="Previous key; empty for none")


BLOCKS: dict[Kind, type[Block]] = {
    "ssh-key": SshKey,
    "registration": SuseRegistration,
    "registry": RegistryCredentials,
    "api-key": ApiKey,
    "s3": S3Credentials,
    "cluster-access": ClusterAccess,
    "secret-text": SecretText,
    "certificate": Certificate,
    "webhook-keys": WebhookKeys,
}
