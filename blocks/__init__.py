"""Connections and secrets of a site: Prefect block types, and `load_site`. Nothing here connects to a site."""
