"""The guide, requirement by requirement, and what answers each. Data only; reports/guide.py renders it."""
