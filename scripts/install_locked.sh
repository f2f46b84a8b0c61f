#!/usr/bin/env bash
# Installs a lock file. What has to be compiled comes last, and is left out where it cannot be compiled.
# Usage: install_locked.sh PYTHON LOCK
set -euo pipefail

python=$1 lock=$2 compiled='^uwsgi=='
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
awk -v compiled="$compiled" '/^[^ ]/ { own = $0 ~ compiled } !own' "$lock" >"$parts/ready.txt"
awk -v compiled="$compiled" '/^[^ ]/ { own = $0 ~ compiled } own' "$lock" >"$parts/compiled.txt"

install=("$python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes)
"${install[@]}" -r "$parts/ready.txt"
# Without isolation, so that the compiling tools are those of the lock file.
if ! "${install[@]}" --no-build-isolation -r "$parts/compiled.txt" >"$parts/log" 2>&1; then
  tail -n 5 "$parts/log" >&2
  echo "powauth: uWSGI cannot be compiled here; what needs it is left out, and named in the summary" >&2
fi
