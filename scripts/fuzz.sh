#!/usr/bin/env bash
# fuzz.sh TIME [PACKAGE-PREFIX… | !PACKAGE-PREFIX…]: runs every fuzz target of the
# module, or of the packages under (or, with "!", not under) folders, for TIME
# each. As many run at once as the machine has cores, one worker each. Making new
# inputs small is bounded: by default it takes the engine all the time there is.
set -uo pipefail
cd "$(dirname "$0")/.."
time=${1:-1m}
shift || true
GO=${GO:-go}

wanted() { # wanted FILE PREFIX…
  local file=$1 p in=1
  shift
  [ $# -eq 0 ] && return 0
  for p in "$@"; do
    case $p in
      '!'*) case $file in "${p#!}"*) return 1 ;; esac; in=0 ;;
      *) case $file in "$p"*) return 0 ;; esac ;;
    esac
  done
  return $in
}

# one FOLDER TARGET: runs a target, prints what it said, and fails on a finding.
one() {
  local folder=$1 target=$2 log try status=1
  log=$(mktemp)
  for try in 1 2 3; do
    if "$GO" test "./$folder" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 100x -parallel 1 >"$log" 2>&1; then
      status=0
      break
    fi
    # A finding leaves its input behind, and a seed that fails is named. Else it
    # was the engine, whose workers can miss their own deadline on a busy machine.
    if [ -n "$(git status --porcelain -- "$folder/testdata/fuzz/$target" 2>/dev/null)" ] || ! grep -q 'context deadline exceeded' "$log"; then break; fi
  done
  { printf '\n=== %s %s (%s)\n' "$folder" "$target" "$time"; tail -n 40 "$log"
    [ "$try" = 1 ] || echo "(try $try: the engine missed its own deadline before)"
    [ $status = 0 ] || echo "FINDING in $target"; }
  rm -f "$log"
  return $status
}
export -f one
export GO time

targets=()
while IFS=: read -r file target; do
  wanted "$file" "$@" && targets+=("$(dirname "$file") $target")
done < <(grep -rnoE --include='*_test.go' '^func (Fuzz[A-Za-z0-9_]+)' . | sed -E 's#^\./##; s#:[0-9]+:func #:#' | sort -u)
[ ${#targets[@]} -gt 0 ] || { echo "no fuzz target found"; exit 1; }
status=0
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -L 1 bash -c 'one "$0" "$1"' || status=1
printf '\n%d fuzz targets, %s\n' ${#targets[@]} "$([ $status = 0 ] && echo 'no finding' || echo 'FINDINGS above')"
exit $status
