"""A Kubernetes API server with the controllers that gates need, in memory: for the lab and the tests.

Real clients (helm 3 and 4, kubectl, the official libraries) work against it unchanged. `KubeState` is the cluster,
`create_kube_app` serves it.
"""

from stackwright.lab.kube.access import User
from stackwright.lab.kube.app import RequestInfo, create_kube_app
from stackwright.lab.kube.state import KubeState
from stackwright.lab.kube.store import Event

__all__ = ["Event", "KubeState", "RequestInfo", "User", "create_kube_app"]
