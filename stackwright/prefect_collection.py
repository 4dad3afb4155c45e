"""What Prefect loads of us as one of its collections (entry point in pyproject.toml).

It does so in its server when that starts, and in every process that opens a block. The mend is for the server alone,
which has its database's code by then; to load that elsewhere would cost each command half a second.
"""

import sys

if "prefect.server.database.configurations" in sys.modules:
    import stackwright.prefect_sqlite  # noqa: F401 - stands in for a method when it is imported
