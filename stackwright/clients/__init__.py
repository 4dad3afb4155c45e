"""One module a wire. Each opens its connection, has time limits, and raises only our own errors."""
