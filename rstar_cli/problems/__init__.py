"""Sources of problems: files, hub data sets, the synthetic generator."""
