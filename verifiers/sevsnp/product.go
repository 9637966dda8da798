package sevsnp

import (
	"fmt"
	"slices"
	"strings"
)

// The product lines, as claims and policies write them. AMD signs for a line
// with one ARK; Bergamo and Siena are of Genoa's.
const (
	Milan = "milan"
	Genoa = "genoa"
	Turin = "turin"
)

// Products lists the product lines, oldest first.
func Products() []string { return []string{Milan, Genoa, Turin} }

// amdName is the line's name in certificates and in the KDS's paths: "Milan".
func amdName(product string) string {
	if product == "" {
		return ""
	}
	return strings.ToUpper(product[:1]) + product[1:]
}

// productOfName is the line of a certificate's product name: "Milan-B0" is of
// Milan (publication 57230, section 3.1). A VLEK names the line alone.
func productOfName(name string) (string, bool) {
	head, _, _ := strings.Cut(name, "-")
	for _, p := range Products() {
		if head == amdName(p) {
			return p, true
		}
	}
	return "", false
}

// cpuid is what reports say of the processor from version 3 on: the combined
// family and model of CPUID leaf 1, and the stepping.
type cpuid struct{ family, model, stepping byte }

// product is the line that a processor belongs to (publication 57230, table
// "Determining the product name"; extended models 0 and 1 of family 1Ah are
// Turin and Turin Dense).
func (c cpuid) product() (string, bool) {
	switch {
	case c.family == 0x19 && c.model <= 0x0f:
		return Milan, true
	case c.family == 0x19 && c.model >= 0x10 && c.model <= 0x1f:
		return Genoa, true
	case c.family == 0x19 && c.model >= 0xa0 && c.model <= 0xaf: // Bergamo, Siena
		return Genoa, true
	case c.family == 0x1a && c.model <= 0x1f:
		return Turin, true
	}
	return "", false
}

func (c cpuid) String() string {
	return fmt.Sprintf("family %02Xh, model %02Xh, stepping %d", c.family, c.model, c.stepping)
}

// isProduct reports whether p is a product line's name.
func isProduct(p string) bool { return slices.Contains(Products(), p) }
