package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/issuer/ca"
)

// socketDir is a directory whose path is short enough for a socket's.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "assay")
	check(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestASocketThatAKilledServerLeftIsUnavailable(t *testing.T) {
	path := filepath.Join(socketDir(t), "admin.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	check(t, err)
	l.SetUnlinkOnClose(false)
	check(t, l.Close())
	for _, args := range []string{"server status", "bundle export", "ledger list", "ledger show as-aaaaaaaaaa", "ledger verify"} {
		got := assay(t, nil, append(strings.Fields(args), "--admin", path)...)
		if got.code != cli.Unavailable || got.stdout != "" || !strings.Contains(got.stderr, "no answer on "+path) || !strings.Contains(got.stderr, "hint: is the server running?") {
			t.Errorf("%s: exit code %d\n%s%s", args, got.code, got.stdout, got.stderr)
		}
	}
}

func TestAServerOfAnotherVersionIsSaidToBeThat(t *testing.T) {
	path := filepath.Join(socketDir(t), "admin.sock")
	l, err := net.Listen("unix", path)
	check(t, err)
	s := grpc.NewServer() // without the admin service
	healthpb.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	for _, args := range []string{"server status", "ledger list"} {
		got := assay(t, nil, append(strings.Fields(args), "--admin", path)...)
		if got.code != cli.Usage || !strings.Contains(got.stderr, "the server does not know this request") {
			t.Errorf("%s: exit code %d\n%s", args, got.code, got.stderr)
		}
	}
}

func TestADatabaseOfAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED WITHOUT ROOT: only root can give a file away")
	}
	o := newOffice(t)
	path := ca.DatabasePath(o.dir)
	const somebody = 54321
	check(t, os.Chown(path, somebody, -1))
	for _, args := range []string{"list", "show 1", "verify"} {
		got := assay(t, nil, append(append([]string{"ledger"}, strings.Fields(args)...), "--db", path)...)
		if got.code != cli.Usage || !strings.Contains(got.stderr, fmt.Sprintf("belongs to user %d, and you are user 0", somebody)) || !strings.Contains(got.stderr, "hint: run this as its owner") {
			t.Errorf("%s: exit code %d\n%s", args, got.code, got.stderr)
		}
	}
	if left, err := filepath.Glob(path + "-*"); err != nil || len(left) != 0 {
		t.Errorf("files were left beside the database: %v, %v", left, err)
	}
}

func TestWhatIsTooLargeToBeEvidenceIsMalformed(t *testing.T) {
	got := assay(t, make([]byte, maxInput+1), "evidence", "verify", "--tee", "aws-nitro", "--output", "json", "-")
	var v verdict
	got.decode(t, &v)
	if got.code != cli.Malformed || v.Check == nil || *v.Check != "size" {
		t.Errorf("exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	got = assay(t, make([]byte, maxInput), "evidence", "verify", "--tee", "aws-nitro", "--output", "json", "-")
	if got.code != cli.Malformed {
		t.Errorf("just below: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
}
