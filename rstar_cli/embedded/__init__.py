"""The embedded policy: a tiny model that comes with the package, and the command that made it."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
"""The checkpoint: loads through `AutoModelForCausalLM` and `AutoTokenizer` as any other."""
