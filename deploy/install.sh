#!/usr/bin/env bash
# Installs Rapid Diffusion into the virtual environment PREFIX: the steps of the image, which CI runs
# outside Docker.
#
#   deploy/install.sh PREFIX TARGET            install, then check
#   deploy/install.sh --check PREFIX TARGET    check only; changes nothing
#
# TARGET   cpu | cuda   the service, copied into PREFIX; the checkout may go afterwards
#          dev          the service and the development tools, running from this checkout
# PYTHON           the interpreter to build PREFIX with (python3)
# TORCH_INDEX_URL  a further package index for torch's builds, where the default one has the wrong
#                  build; pip's own variables and /etc/pip.conf count as always
set -euo pipefail

usage() { sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
check_only=false
if [ "${1:-}" = --check ]; then check_only=true; shift; fi
[ $# -eq 2 ] || usage
prefix=$1 target=$2
case "$target" in cpu | cuda | dev) ;; *) usage ;; esac

install() {
  "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || { echo "${PYTHON:-python3} is older than 3.11: set PYTHON to a newer one" >&2; exit 1; }
  "${PYTHON:-python3}" -m venv "$prefix"
  local what=("$checkout[server]")
  if [ "$target" = dev ]; then what=(--editable "$checkout[server,train,dev]"); fi
  "$prefix/bin/python" -m pip install --quiet --no-cache-dir \
    ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} \
    --constraint "$checkout/constraints.txt" "${what[@]}"
}

check() {
  "$prefix/bin/python" "$checkout/deploy/check_install.py" "$target"
  # Outside the checkout, so that nothing is imported from it: the copy must stand alone.
  if [ "$target" != dev ]; then (cd / && "$prefix/bin/rapid-diffusion" doctor); fi
}

$check_only || install
check
