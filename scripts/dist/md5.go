package main

import (
	"crypto/md5" //nolint:gosec // dpkg's list of files wants MD5; SHA256SUMS is what protects
	"encoding/hex"
)

func md5Hex(b []byte) string {
	s := md5.Sum(b) //nolint:gosec // as above
	return hex.EncodeToString(s[:])
}
