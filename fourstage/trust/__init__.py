"""Whether a run can be trusted: checks, audits and the roofline."""
