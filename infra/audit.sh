#!/usr/bin/env bash
set -euo pipefail
# Known vulnerabilities of everything that constraints.txt pins, by pip-audit in an environment of its own. Where
# the database of advisories is out of reach, it says so: then nothing was compared. A copy of the database in
# a folder (ADVISORIES, a checkout of github.com/pypa/advisory-database) needs no network.
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
"$python" -m pip --disable-pip-version-check check

if [[ -n ${ADVISORIES:-} ]]; then
  exec "$python" infra/advisories.py "$ADVISORIES" constraints.txt
fi

reachable='import urllib.request; urllib.request.urlopen("https://pypi.org/pypi/pip/26.0/json", timeout=15)'
if ! "$python" -c "$reachable" 2>/dev/null; then
  echo "Not audited: the advisories of pypi.org are out of reach from here. Run it where the network allows," \
    "or name a copy: make audit ADVISORIES=folder" >&2
  exit 0
fi
test -x .venv-audit/bin/pip-audit || { "$python" -m venv .venv-audit && .venv-audit/bin/pip install -q pip-audit; }
.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip
