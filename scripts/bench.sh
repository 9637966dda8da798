#!/usr/bin/env bash
# Runs the benchmarks. Each reports ratios to the cryptography it can't avoid,
# measured side by side in the same run: the machines are noisy, ratios hold.
set -euo pipefail
cd "$(dirname "$0")/.."
pattern=${1:-.}
# -p 1: one package at a time, so that benchmarks don't time each other.
exec "${GO:-go}" test -p 1 -run '^$' -bench "$pattern" -benchmem -benchtime "${BENCHTIME:-1s}" -timeout 30m \
  $("${GO:-go}" list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./... | grep -v '/internal/') 2>&1 |
  grep -vE '^(PASS|ok .*|\?.*no test files.*)$'
