#!/usr/bin/env bash
# Everything that `make test` runs. It installs what it lacks where root or sudo
# allows it; otherwise it runs the rest, lists what did not run, and fails
# unless ALLOW_PARTIAL=1.
set -uo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
missing=()  # what could not run, a line each
failed=()   # what ran and failed

# Some stages wait (for timers, disks, processes) while others compute. So three run
# at once, each testing half as many packages at a time as there are cores. What a
# stage says is kept, and printed whole when it ends.
declare -A running=() began=() log=()
logs=$(mktemp -d) || exit 2
trap 'rm -rf "$logs"' EXIT
trap 'trap "" INT TERM; kill 0; exit 130' INT TERM # those in the background would go on
finish() { # waits until a stage has ended, and tells how
  local pid status
  wait -n -p pid; status=$?
  local name=${running[$pid]} took=$((SECONDS - began[$pid]))
  printf '\n=== %s\n' "$name"; cat "${log[$pid]}"
  if [ $status = 0 ]; then printf -- '--- ok: %s (%ds)\n' "$name" $took
  else failed+=("$name"); printf -- '--- FAILED: %s (%ds)\n' "$name" $took; fi
  unset "running[$pid]"
}
run() { # run NAME COMMAND…: begins a stage, when fewer than three run
  while [ ${#running[@]} -ge 3 ]; do finish; done
  local name=$1; shift
  local into=$logs/${#began[@]}
  # A shell has what it starts in the background ignore these, and tests send them.
  env --default-signal=HUP,INT,QUIT "$@" >"$into" 2>&1 &
  running[$!]=$name began[$!]=$SECONDS log[$!]=$into
  printf '... %s\n' "$name"
}

command -v "$GO" >/dev/null || { echo "error: no Go toolchain; see go.mod for the version" >&2; exit 2; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo -n "$@"
  else return 1; fi
}
need() { # need COMMAND PACKAGE WHAT-FOR
  command -v "$1" >/dev/null && return 0
  if command -v apt-get >/dev/null; then
    echo "installing $2 ($3)"
    if as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null 2>&1 ||
       { as_root apt-get update -qq >/dev/null 2>&1 && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null 2>&1; }; then
      command -v "$1" >/dev/null && return 0
    fi
  fi
  missing+=("$3: needs $1 (Debian package $2), which could not be installed")
  return 1
}

race=()
libc_headers() { printf '#include <stdlib.h>\nint main(void){return 0;}\n' | gcc -x c -o /dev/null - 2>/dev/null; }
if need gcc gcc "the race detector"; then
  libc_headers || as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libc6-dev >/dev/null 2>&1
  if libc_headers; then race=(-race); else missing+=("the race detector: gcc can't compile (Debian package libc6-dev)"); fi
fi

need swtpm swtpm "the tests on a real software TPM" || true
need softhsm2-util softhsm2 "the tests of assay-signer on a software HSM" || export ASSAY_NO_SOFTHSM=1

# Debian keeps PostgreSQL's programs out of the PATH. The tests start clusters of
# their own; the one that the package would make is not wanted.
postgres_here() { [ -x "${ASSAY_POSTGRES:-}/initdb" ] || command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }
if ! postgres_here; then
  as_root sh -c 'mkdir -p /etc/postgresql-common/createcluster.d && echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/assay.conf' 2>/dev/null
  need pg_ctlcluster postgresql "the tests on a real PostgreSQL" && { postgres_here || missing+=("the tests on a real PostgreSQL: initdb is not there; set ASSAY_POSTGRES to its directory"); }
fi

# The commands that tests run as processes are built once, as `make build` does. An
# equal file stays: the go command knows by its time whether a test has seen it.
export ASSAY_BINARIES=$PWD/bin/tested
if ! make -s build GO="$GO" BIN=bin/tested/new; then echo "error: the commands do not build" >&2; exit 1; fi
for f in bin/tested/new/*; do cmp -s "$f" "bin/tested/${f##*/}" || mv "$f" bin/tested/; done
rm -rf bin/tested/new

# Every test runs once at least. The packages, where goroutines meet, run under the
# race detector. The commands and guides, which start our binaries as processes by
# the hundred, do not: the code that those run is the packages'. Nor do those that
# play years, kill at every step, or start processes: what they share, their
# neighbours share under the detector too. Nor do those that compute, several times
# slower under it, and share nothing but what the tests named below share.
served='^\./(issuer|issuer/(ca|federation)|policy|verifiers/(nitro|sevsnp|tpm))$'
plain='^\./(cmd|docs|examples|deploy)(/|$)|/internal/(strictyaml|layout|fleet|recovery|compat|soak)$'
plain="$plain|/policy/(diff|edit|measure/eif|mutate|signed)$|/verifiers/tpm/eventlog$"
# Of the service, policy and verifiers, whose tests take longest, the detector sees
# those in which something meets.
meets='AtOnce|InTime|Exchanged|Watch|Ban|Turn|Reload|Event|News|Front|Handshake|Connection|Concurrent|Goroutines|Follow|Herd|Race|Shared|OneWins'
# Of all these it does not see those that are long by what one goroutine does: every
# bit of a document, every fault of a device, thousands of rows or of agents.
long='Thousand|IsSmall|EveryBit|NoBit|SignedAllTheSame|LeavesNoTrace|FaultyModule|TheBindingsOf|AChangedDatabase|RecordsAreStreamed|HasNoRoomFor'
all=$("$GO" list ./... | sed 's#^github.com/assay-project/assay/#./#')
among() { grep -E "$1" <<<"$all"; }
tested=$(grep -vE "$plain|$served" <<<"$all")
with_long=$(for p in $tested; do ! grep -qsE "^func (Test|Fuzz|Example)\w*($long)" "$p"/*_test.go || echo "$p"; done)

tests=("$GO" test -vet=off -timeout 9m -p $((($(nproc) + 1) / 2))) # vet is a stage of its own
# The longest begin first.
run "service, policy and verifiers" env CGO_ENABLED=0 "${tests[@]}" $(among "$served")
if [ ${#race[@]} -gt 0 ]; then
  detector=(env CGO_ENABLED=1 "${tests[@]}" -race)
  run "issuing and verifying, with the race detector" "${detector[@]}" -skip "$long" $(grep -E '^./(issuer|verifiers)' <<<"$tested")
  run "commands, sessions and guides, over real processes and sockets" env CGO_ENABLED=0 "${tests[@]}" $(among "$plain")
  run "agent, SVIDs, simulators and the rest, with the race detector" "${detector[@]}" -skip "$long" $(grep -vE '^./(issuer|verifiers)' <<<"$tested")
  run "what meets in service, policy and verifiers, with the race detector" "${detector[@]}" -run "$meets" -skip "$long" $(among "$served")
else
  run "unit and negative tests" env CGO_ENABLED=0 "${tests[@]}" -skip "$long" $tested
  run "commands, sessions and guides, over real processes and sockets" env CGO_ENABLED=0 "${tests[@]}" $(among "$plain")
fi
run "long tests" env CGO_ENABLED=0 "${tests[@]}" -run "$long" $with_long
run "vet" "$GO" vet ./...
# assay-signer is a module of its own (PKCS#11 needs cgo), which ./... above does
# not reach into.
if libc_headers; then
  run "assay-signer: vet" env CGO_ENABLED=1 "$GO" -C cmd/assay-signer vet ./...
  run "assay-signer: SoftHSM, AWS KMS, Vault" env CGO_ENABLED=1 "$GO" -C cmd/assay-signer test -vet=off -timeout 9m ./...
else
  missing+=("assay-signer: PKCS#11 needs cgo, and gcc can't compile (Debian packages gcc and libc6-dev)")
fi
# Modules of their own, so that what they need chooses no version of the product's.
run "Kubernetes manifests, by Kubernetes' own types" env CGO_ENABLED=0 "$GO" -C deploy/kubernetes test ./...
run "the tool that makes releases" env CGO_ENABLED=0 "$GO" -C scripts/dist test ./...
while [ ${#running[@]} -gt 0 ]; do finish; done
[ ${#began[@]} -gt 0 ] || failed+=("this script: it ran nothing")

echo
if ! git rev-parse -q --verify "$(sed -n 's/^const Previous = "\(.*\)"$/\1/p' internal/compat/doc.go)^{commit}" >/dev/null 2>&1; then
  echo "NOTICE: the history does not have the version before (a shallow clone?). Upgrades were not tested."
fi
if [ -z "${ASSAY_ENVOY:-}" ] && ! command -v envoy >/dev/null; then
  echo "NOTICE: ran without a real Envoy. Its streams and configurations were tested, and it was not; ASSAY_ENVOY names one."
fi
if [ "$(id -u)" != 0 ]; then
  echo "NOTICE: ran without root. What only root can do (other users, PID namespaces) was skipped; go test -v names each."
fi
if [ -z "${ASSAY_VECTORS:-}" ]; then
  echo "NOTICE: ran without recorded hardware evidence. The tests over real documents were skipped."
  echo "        Set ASSAY_VECTORS to the directory of recordings to run them."
else
  echo "Recorded hardware evidence: used."
fi
status=0
if [ ${#missing[@]} -gt 0 ]; then
  echo "DID NOT RUN:"; printf '  - %s\n' "${missing[@]}"
  [ "${ALLOW_PARTIAL:-}" = 1 ] || { echo "(set ALLOW_PARTIAL=1 to accept a partial run)"; status=1; }
fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "FAILED:"; printf '  - %s\n' "${failed[@]}"; status=1
fi
[ $status = 0 ] && echo "All tests passed in ${SECONDS}s."
exit $status
