"""Training: rows in, a checkpoint directory out. `policy` fine-tunes the policy on verified trajectories."""
