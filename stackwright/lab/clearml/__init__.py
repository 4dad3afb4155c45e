"""The ClearML Enterprise server stand-in: API, web page and file sink, and the workers that a tenant's releases run.

Modelled on the public API reference and the open-source server's behaviour. What the Enterprise server answers where
neither says so is a guess, and named as one where it stands.
"""

from stackwright.lab.clearml.gateway import GatewayStandin
from stackwright.lab.clearml.server import ClearmlApps, create_clearml_apps
from stackwright.lab.clearml.settings import ConfigurationError
from stackwright.lab.clearml.state import DEFAULT_COMPANY, ClearmlState
from stackwright.lab.clearml.workers import AgentStandin

__all__ = [
    "DEFAULT_COMPANY",
    "AgentStandin",
    "ClearmlApps",
    "ClearmlState",
    "ConfigurationError",
    "GatewayStandin",
    "create_clearml_apps",
]
