#!/usr/bin/env bash
# Everything that `make test` runs. It installs what it lacks where root or sudo
# allows it; otherwise it runs the rest, lists what did not run, and fails
# unless ALLOW_PARTIAL=1.
set -uo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
missing=()  # what could not run, a line each
failed=()   # what ran and failed

step() { printf '\n=== %s\n' "$1"; }
run() { # run NAME COMMAND…
  local name=$1; shift
  step "$name"
  local begin=$SECONDS
  if "$@"; then printf -- '--- ok: %s (%ds)\n' "$name" $((SECONDS - begin))
  else failed+=("$name"); printf -- '--- FAILED: %s (%ds)\n' "$name" $((SECONDS - begin)); fi
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

run "vet" "$GO" vet ./...

# The packages, where goroutines meet, run under the race detector. The commands
# and guides, which start our binaries as processes by the hundred, do not: the
# code that those run is the packages'. Nor do the policy compiler and its YAML,
# which compute for long and share nothing but what the tests named below share.
plain='/(cmd|docs|examples|deploy)(/|$)|/policy$|/internal/(strictyaml|fleet|recovery|compat|soak)$'
# So do those that play years, kill at every step, start processes, or run a
# thousand agents: what they share, their neighbours share under the detector too.
# Of the service and the CA, whose tests take longest, the detector sees those in
# which something meets.
plain="$plain|/issuer$|/issuer/(ca|federation)$"
long='Thousand|IsSmall'
meets='AtOnce|InTime|Exchanged|Watch|Ban|Turn|Reload|Event|News|Front|Handshake|Connection|Concurrent|Goroutines|Follow|Herd|Race'
packages=$("$GO" list ./... | grep -vE "$plain")
commands=$("$GO" list ./... | grep -E "$plain")
run "unit and negative tests${race:+, with the race detector}" \
  env CGO_ENABLED=$([ ${#race[@]} -gt 0 ] && echo 1 || echo 0) "$GO" test "${race[@]}" -timeout 9m -skip "$long" $packages
[ ${#race[@]} -gt 0 ] && run "what meets in the service, with the race detector" \
  env CGO_ENABLED=1 "$GO" test -race -timeout 9m -run "$meets" ./issuer ./issuer/ca ./issuer/federation
run "a thousand agents, and one's size" env CGO_ENABLED=0 "$GO" test -timeout 9m -run "$long" ./enclave-agent
[ ${#race[@]} -gt 0 ] && run "what goroutines share of a policy, with the race detector" \
  env CGO_ENABLED=1 "$GO" test -race -timeout 9m -run 'Goroutines|Shared|Concurrent' ./policy
run "policy, commands, sessions and guides, over real processes and sockets" \
  env CGO_ENABLED=0 "$GO" test -timeout 9m $commands
# assay-signer is a module of its own (PKCS#11 needs cgo), which ./... above does
# not reach into.
if libc_headers; then
  run "assay-signer: vet" env CGO_ENABLED=1 "$GO" -C cmd/assay-signer vet ./...
  run "assay-signer: SoftHSM, AWS KMS, Vault" env CGO_ENABLED=1 "$GO" -C cmd/assay-signer test -timeout 9m ./...
else
  missing+=("assay-signer: PKCS#11 needs cgo, and gcc can't compile (Debian packages gcc and libc6-dev)")
fi
# Modules of their own, so that what they need chooses no version of the product's.
run "Kubernetes manifests, by Kubernetes' own types" env CGO_ENABLED=0 "$GO" -C deploy/kubernetes test ./...
run "the tool that makes releases" env CGO_ENABLED=0 "$GO" -C scripts/dist test ./...
if [ ${#race[@]} -gt 0 ]; then
  # Exhaustive tests (every bit of a document) are built without the race
  # detector only: they are arithmetic, many times slower under it.
  run "exhaustive tests, without the race detector" \
    env CGO_ENABLED=0 "$GO" test -timeout 9m -run 'EveryBit|NoBit' -v ./verifiers/...
fi

echo
if ! git rev-parse -q --verify "$(sed -n 's/^const Previous = "\(.*\)"$/\1/p' internal/compat/doc.go)^{commit}" >/dev/null 2>&1; then
  echo "NOTICE: the history does not have the version before (a shallow clone?). Upgrades were not tested."
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
