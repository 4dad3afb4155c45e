"""For all tests: our loggers may speak outside a flow run. Nothing here starts a server (that is in tests/flows)."""

import os

# prefect.toml hands our loggers to Prefect: without this each line outside a run warns, and warnings are errors.
os.environ["PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW"] = "ignore"
