#!/usr/bin/env bash
# Installs Debian packages: only those missing, and only as root. Usage: system_packages.sh build|compile|test|gate|bench
set -euo pipefail

missing=()
need() { # COMMAND PACKAGE
  command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}
"${PYTHON:-python3}" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ "${1:-build}" = compile ]; then
  need cc gcc # uWSGI is compiled
  "${PYTHON:-python3}" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    missing+=(python3-dev)
fi
if [ "${1:-build}" = test ]; then
  need chromium chromium # the browser tests
  need redis-server redis-server # tests that stop, fill or cluster servers of their own
  PATH=$PATH:/usr/sbin need pgbouncer pgbouncer # PostgreSQL behind a pooler
  need curl curl # the commands that the pages print
fi
if [ "${1:-build}" = gate ]; then
  need valgrind valgrind # the instructions of a request are counted under it
fi
if [ "${1:-build}" = bench ]; then
  need wrk wrk # the load of the end-to-end part
  need redis-server redis-server # a server of the benchmark's own
fi

[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null && exit 0
fi
echo "powauth: not installed here: ${missing[*]}; what needs them is left out, and named in the summary" >&2
