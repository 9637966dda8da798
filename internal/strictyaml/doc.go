// Package strictyaml reads the YAML that people write for Assay: policies and
// configuration. It accepts the part of YAML that has one meaning, and reports
// everything else at once, each problem with file, line, column, the source
// line with a caret, and a hint.
//
//	var c Config = defaults
//	err := strictyaml.Decode("assayd.yaml", src, &c)   // an Errors, sorted by position
//
// What is refused, because a reader of the file and the program could take it
// for two different things: unknown and duplicate keys, anchors, aliases, merge
// keys, tags, directives, several documents, nulls, numbers with leading zeros,
// unquoted numbers where text is wanted (a hex digest such as 12e4 is a number
// to YAML), and invisible characters that reorder or break lines.
//
// Programs that check more than types open the file themselves, and report
// their own findings with the same positions:
//
//	doc := strictyaml.Open("assayd.yaml", src)
//	doc.Decode(&c)
//	if c.Listen == "" {
//		doc.Report(doc.At("server", "listen"), "the address is empty", "for example :8443")
//	}
//	return doc.Err()
//
// Time and memory are linear in the size of the file, which is capped: aliases
// are never expanded, and a rendered report holds at most [MaxErrors] problems
// with a bounded piece of source each.
package strictyaml
