"""Engines: what runs a policy. Each fulfils `rstar_cli.protocols.Policy`."""
