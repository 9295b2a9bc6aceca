"""The side of the sandbox that runs in its own processes.

It is imported by path under a name of its own, with none of `rstar_cli`: the process that forks untrusted programs
holds nothing of ours.
"""
