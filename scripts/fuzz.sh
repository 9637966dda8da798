#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each.
set -uo pipefail
cd "$(dirname "$0")/.."
time=${1:-1m}
status=0 ran=0
while IFS=: read -r file target; do
  ran=$((ran + 1))
  printf '\n=== %s %s (%s)\n' "$(dirname "$file")" "$target" "$time"
  "${GO:-go}" test "./$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$time" || { status=1; echo "FINDING in $target"; }
done < <(grep -rnoE --include='*_test.go' '^func (Fuzz[A-Za-z0-9_]+)' . | sed -E 's#^\./##; s#:[0-9]+:func #:#' | sort -u)
[ $ran -gt 0 ] || { echo "no fuzz target found"; exit 1; }
printf '\n%d fuzz targets, %s\n' $ran "$([ $status = 0 ] && echo 'no finding' || echo 'FINDINGS above')"
exit $status
