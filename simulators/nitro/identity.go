package nitro

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

func randomHex(n int) (string, error) {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return hex.EncodeToString(b), nil
}

func randomUUID() (string, error) {
	s, err := randomHex(16)
	if err != nil {
		return "", err
	}
	return s[:8] + "-" + s[8:12] + "-4" + s[13:16] + "-8" + s[17:20] + "-" + s[20:], nil
}

// newInstanceID returns an EC2 instance id: "i-" and 17 hex digits, of which the
// first is 0.
func newInstanceID() (string, error) {
	s, err := randomHex(8)
	return "i-0" + s, err
}

// NewModuleID returns an NSM module id as EC2 writes it: the instance id, "-enc",
// and 16 hex digits, which are the launch time in milliseconds (48 bits) and 16
// random bits. An empty instance id is replaced by a random one, and the zero
// time by now.
func NewModuleID(instanceID string, at time.Time) (string, error) {
	if instanceID == "" {
		var err error
		if instanceID, err = newInstanceID(); err != nil {
			return "", err
		}
	}
	if at.IsZero() {
		at = time.Now()
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(at.UnixMilli())<<16)
	if _, err := rand.Read(b[6:]); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s-enc%x", instanceID, b), nil
}

// InstanceOf is the EC2 instance id within a module id.
func InstanceOf(moduleID string) string {
	id, _, _ := strings.Cut(moduleID, "-enc")
	return clipName(id)
}

// clipName keeps a name within what a certificate can carry.
func clipName(s string) string {
	if len(s) > 60 {
		return s[:60]
	}
	return s
}
