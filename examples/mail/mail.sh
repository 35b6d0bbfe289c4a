#!/usr/bin/env bash
# plain.py as the app "payroll": its traffic by the app's tunnel, its token in the app's vault.
# Secrets pass through pipes only, never through arguments, variables or files.
set -euo pipefail
client=("${PYTHON:-python3}" "$(dirname "$0")/plain.py")
case "${1-}" in
sign-in)
    mdx run --quiet payroll -- "${client[@]}" sign-in | mdx vault put payroll mail-token --kind token
    ;;
inbox | read)
    mdx vault get payroll mail-token | mdx run --quiet payroll -- "${client[@]}" "$@"
    ;;
*)
    echo "usage: mail.sh sign-in < PASSWORD | inbox | read N" >&2
    exit 2
    ;;
esac
