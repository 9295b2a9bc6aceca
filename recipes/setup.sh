#!/bin/sh
# Sourced by tests/run.sh and recipes/quickstart.sh: a virtual environment in .venv with rstar and its packages.
# A second run uses what is there. RSTAR_EXTRAS names extras to install, such as dev.
set -eu

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "rstar needs Python 3.11 or newer; set PYTHON to one (found: $("$python" --version))." >&2
  exit 5
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
wanted=$(cat pyproject.toml constraints.txt; echo "${RSTAR_EXTRAS:-}")
if [ "$(cat .venv/rstar-installed 2>/dev/null)" != "$wanted" ]; then
  echo "installing rstar and its packages into .venv (minutes, the first time)" >&2
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${RSTAR_EXTRAS:+[$RSTAR_EXTRAS]}"
  printf '%s' "$wanted" > .venv/rstar-installed
fi
PATH="$PWD/.venv/bin:$PATH"
export PATH
