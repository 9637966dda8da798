#!/usr/bin/env bash
# fuzz.sh TIME [PACKAGE-PREFIX | !PACKAGE-PREFIX]: runs every fuzz target of the
# module, or of the packages under (or, with "!", not under) a folder, for TIME each.
set -uo pipefail
cd "$(dirname "$0")/.."
time=${1:-1m} only=${2:-} status=0 ran=0

wanted() { # wanted FILE
  case $only in
    '') return 0 ;;
    '!'*) case $1 in "${only#!}"*) return 1 ;; *) return 0 ;; esac ;;
    *) case $1 in "$only"*) return 0 ;; *) return 1 ;; esac ;;
  esac
}
one() { # one FOLDER TARGET
  "${GO:-go}" test "./$1" -run '^$' -fuzz "^$2\$" -fuzztime "$time"
}
while IFS=: read -r file target; do
  wanted "$file" || continue
  folder=$(dirname "$file")
  ran=$((ran + 1))
  printf '\n=== %s %s (%s)\n' "$folder" "$target" "$time"
  if ! one "$folder" "$target"; then
    # A finding leaves its input behind. Without one it was the engine, whose
    # workers can miss their own deadline on a busy machine: once more.
    if [ -n "$(git status --porcelain -- "$folder/testdata/fuzz/$target" 2>/dev/null)" ] || ! one "$folder" "$target"; then
      status=1
      echo "FINDING in $target"
    fi
  fi
done < <(grep -rnoE --include='*_test.go' '^func (Fuzz[A-Za-z0-9_]+)' . | sed -E 's#^\./##; s#:[0-9]+:func #:#' | sort -u)
[ $ran -gt 0 ] || { echo "no fuzz target found"; exit 1; }
printf '\n%d fuzz targets, %s\n' $ran "$([ $status = 0 ] && echo 'no finding' || echo 'FINDINGS above')"
exit $status
