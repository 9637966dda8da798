// Package edit changes a policy file the way a careful person would: it adds a
// reference value, gives the older ones an end, raises the revision, and leaves
// every other byte as it is, comments and order included.
//
// A policy is YAML, and YAML that is read and written again loses what its
// readers care for. So an edit is a list of places in the file and the text that
// goes there, made from the positions of the parsed file. What comes out is then
// parsed again, and must say what the old file says and the change, no more and
// no less: a layout that this package does not understand is an error that names
// the place, never a file that is wrong.
//
// Invariants, which the tests hold over generated files:
//
//	tree(edit(x)) = tree(x) + the value, the ends, the revision
//	taking the inserted text out of edit(x) gives x, byte for byte
package edit
