"""Engines: what runs a policy or a PRM. Each fulfils `Policy` or `StepScorer` of `rstar_cli.protocols`."""
