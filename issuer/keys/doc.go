// Package keys keeps the private keys of an issuer.
//
// The rest of the issuer sees a [crypto.Signer] and the [Ring] it came from;
// where the key lives is the ring's business. [Dir] is the default: one file a
// key, PKCS#8 in PEM, mode 0600, in a directory of mode 0700.
//
// Two promises matter more than the format:
//
//   - A key is durable before anybody learns that it exists. Create writes a
//     temporary file, syncs it, gives it its name without ever replacing another
//     file, and syncs the directory; only then does it return. A crash in
//     between leaves a temporary file that nobody uses (see [Dir.Sweep]).
//   - A key that others could have read or replaced is refused: wider modes,
//     another owner, symbolic links, and anything that is not a regular file.
//
// A missing key is an error that satisfies errors.Is(err, fs.ErrNotExist). What
// to do about it is for the caller to decide: beside a database that names the
// key, it must never be "make a new one".
package keys
