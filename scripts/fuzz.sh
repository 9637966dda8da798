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

# build FOLDER: a package's test binary with the engine's instrumentation, once for
# all of its targets.
build() { "$GO" test -c -fuzz . -ldflags '-s -w' -o "$built/${1//\//_}" "./$1" || echo "BUILD FAILED: $1"; }

# one FOLDER TARGET: runs a target, prints what it said, and fails on a finding.
one() {
  local folder=$1 target=$2 log try status=1
  log=$(mktemp)
  for try in 1 2 3; do
    if (cd "$folder" && "$built/${folder//\//_}" -test.paniconexit0 -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "$time" \
      -test.fuzzminimizetime 100x -test.parallel 1 -test.fuzzcachedir "$cache/$folder") >"$log" 2>&1; then
      status=0
      break
    fi
    # A finding leaves its input behind, and a seed that fails is named. Else it
    # was the engine, whose workers can miss their own deadline on a busy machine.
    if [ -n "$(git status --porcelain -- "$folder/testdata/fuzz/$target" 2>/dev/null)" ] || ! grep -q 'context deadline exceeded' "$log"; then break; fi
  done
  # A binary that knows no such target says so, and succeeds.
  ! grep -q 'no fuzz tests to fuzz' "$log" || status=1
  { printf '\n=== %s %s (%s)\n' "$folder" "$target" "$time"; tail -n 40 "$log"
    [ "$try" = 1 ] || echo "(try $try: the engine missed its own deadline before)"
    [ $status = 0 ] || echo "FINDING in $target"; }
  rm -f "$log"
  return $status
}

targets=()
while IFS=: read -r file target; do
  wanted "$file" "$@" && targets+=("$(dirname "$file") $target")
done < <(grep -rnoE --include='*_test.go' '^func (Fuzz[A-Za-z0-9_]+)' . | sed -E 's#^\./##; s#:[0-9]+:func #:#' | sort -u)
[ ${#targets[@]} -gt 0 ] || { echo "no fuzz target found"; exit 1; }
built=$(mktemp -d) || exit 1
trap 'rm -rf "$built"' EXIT
# Where `go test -fuzz` keeps what it learnt too.
cache=$("$GO" env GOCACHE)/fuzz/$("$GO" list -m)
export -f build one
export GO time built cache
status=0
printf '%s\n' "${targets[@]% *}" | sort -u | xargs -P "$(nproc)" -I{} bash -c 'build {}'
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -L 1 bash -c 'one "$0" "$1"' || status=1
printf '\n%d fuzz targets, %s\n' ${#targets[@]} "$([ $status = 0 ] && echo 'no finding' || echo 'FINDINGS above')"
exit $status
