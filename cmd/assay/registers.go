package main

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/cli"
)

// printRegisters prints measurement registers as a plain table. All are there:
// runs of registers that are all zero, which is what an unused one holds, share
// a line.
func printRegisters(p *cli.Page, title string, regs map[int]attest.Bytes) {
	if len(regs) == 0 {
		return
	}
	p.Title("%s", title)
	var rows [][]string
	index := slices.Sorted(maps.Keys(regs))
	for i := 0; i < len(index); i++ {
		from := i
		for i+1 < len(index) && index[i+1] == index[i]+1 && zero(regs[index[i]]) && zero(regs[index[i+1]]) && len(regs[index[i]]) == len(regs[index[i+1]]) {
			i++
		}
		name, value := fmt.Sprint(index[from]), regs[index[from]].String()
		if i > from {
			name = fmt.Sprintf("%d-%d", index[from], index[i])
		}
		if zero(regs[index[from]]) {
			value = fmt.Sprintf("all zero (%s)", cli.Count(len(regs[index[from]]), "byte"))
		}
		rows = append(rows, []string{name, value})
	}
	p.Table([]string{strings.ToLower(registerName(title)), "value"}, rows)
}

// registerName is the word above the index column.
func registerName(string) string { return "index" }

func zero(b attest.Bytes) bool { return len(b) > 0 && len(bytes.Trim(b, "\x00")) == 0 }
