package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// billOfMaterials writes assay-VERSION-linux-ARCH.cdx.json: every binary with its
// digest, and every module that the linker put into it, with its checksum of
// go.sum. It is read back from the binaries themselves, so that it lists what is
// in them and not what go.mod might bring.
func (r *release) billOfMaterials(arch, bin string) error {
	base := "assay-" + r.version + "-linux-" + arch
	b := cdx.NewBOM()
	components := map[string]cdx.Component{}
	var dependencies []cdx.Dependency
	// No random serial number: that of the content is the same for the same content.
	sum := sha256.New()
	var tool string
	for _, name := range binaries {
		path := filepath.Join(bin, name)
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		digest := sha256.Sum256(body)
		_, _ = sum.Write(digest[:])
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		tool = info.GoVersion
		ref := "binary:" + name
		var needs []string
		for _, m := range append(info.Deps, &debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}) {
			if m.Replace != nil {
				m = m.Replace
			}
			if strings.HasPrefix(m.Path, ".") || m.Version == "(devel)" {
				continue // our own main module, by its path
			}
			c := moduleComponent(m)
			components[c.BOMRef] = c
			needs = append(needs, c.BOMRef)
		}
		slices.Sort(needs)
		needs = slices.Compact(needs)
		components[ref] = cdx.Component{
			BOMRef: ref, Type: cdx.ComponentTypeApplication, Name: name, Version: r.version,
			Hashes:   &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: fmt.Sprintf("%x", digest)}},
			Licenses: &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}},
		}
		dependencies = append(dependencies, cdx.Dependency{Ref: ref, Dependencies: &needs})
	}
	h := sum.Sum(nil)
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80 // RFC 9562: version 8, of one's own making
	b.SerialNumber = fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
	b.Metadata = &cdx.Metadata{
		Timestamp: r.at.Format(time.RFC3339),
		Component: &cdx.Component{BOMRef: base, Type: cdx.ComponentTypeApplication, Name: "assay", Version: r.version},
		Properties: &[]cdx.Property{
			{Name: "assay:os", Value: "linux"}, {Name: "assay:arch", Value: arch}, {Name: "assay:go", Value: tool},
		},
	}
	var list []cdx.Component
	for _, c := range components {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b cdx.Component) int { return strings.Compare(a.BOMRef, b.BOMRef) })
	b.Components, b.Dependencies = &list, &dependencies
	return r.write(base+".cdx.json", func(w io.Writer) error {
		return cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).Encode(b)
	})
}

func moduleComponent(m *debug.Module) cdx.Component {
	ref := "pkg:golang/" + m.Path + "@" + m.Version
	c := cdx.Component{BOMRef: ref, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: ref, Scope: cdx.ScopeRequired}
	if m.Sum != "" {
		// The checksum of go.sum: of a list of files' digests, and so no digest of a file.
		c.Properties = &[]cdx.Property{{Name: "assay:go-sum", Value: m.Sum}}
	}
	return c
}
