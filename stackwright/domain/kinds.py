"""The kinds of secrets that a site file may name: one block type each (blocks/types.py)."""

from __future__ import annotations

from typing import Literal

Kind = Literal[
    "ssh-key",  # private_key, passphrase
    "registration",  # code
    "registry",  # username, password
    "api-key",  # access_key, secret_key (ClearML)
    "s3",  # access_key, secret_key
    "cluster-access",  # kubeconfig
    "secret-text",  # value (tokens, passwords, licences, PEM)
    "certificate",  # certificate, private_key (PEM)
    "webhook-keys",  # key_id, key, previous_id, previous_key (one caller of the webhooks)
]
