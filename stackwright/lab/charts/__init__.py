"""Stand-in charts with the real charts' names, versions, CRDs, workload names and value keys, small enough for the lab.

A chart here renders what the flows, gates and operators look at, and refuses what the real one refuses; nothing else.
"""

from stackwright.lab.charts.apps import APPS
from stackwright.lab.charts.build import archive, publish_charts, write_archives
from stackwright.lab.charts.clearml import CLEARML, mongodb_crds
from stackwright.lab.charts.gpu import GPU
from stackwright.lab.charts.platform import PLATFORM
from stackwright.lab.charts.products import PRODUCTS

CHARTS = (*PLATFORM, *PRODUCTS, *APPS, *GPU, *CLEARML)

__all__ = ["CHARTS", "archive", "mongodb_crds", "publish_charts", "write_archives"]
