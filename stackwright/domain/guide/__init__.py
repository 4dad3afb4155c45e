"""The guide, requirement by requirement: what answers each, and where its print is wrong. Data only; reports/ renders it."""
