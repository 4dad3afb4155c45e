"""Pure decisions: spec, facts, plan, values, tenants, errors. No I/O, no clock, no environment."""
