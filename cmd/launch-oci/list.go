package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"launch/oci/bundle"
	"launch/oci/container"
)

var listVerb = &verb{
	name: "list", help: "list containers", most: 0,
	options: []option{
		{names: "format f", arg: "table|json", help: "how they are listed"},
		{names: "quiet q", help: "ids only"},
	},
	run: listAll,
}

func listAll(c *call) int {
	ids, err := container.List(c.root())
	if errors.Is(err, fs.ErrNotExist) && !c.global.told("root") {
		// Nothing was created so far. But who names a directory means one.
		err = nil
	}
	if err != nil {
		return c.fail(err)
	}
	var rows []bundle.State
	quiet, table := "", "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n"
	for _, id := range ids {
		d, err := container.Open(c.root(), id)
		if err != nil {
			continue // gone meanwhile
		}
		t, err := d.Told(true)
		d.Close()
		if err != nil {
			out.warn(fmt.Sprintf("load container %s: %v", id, err))
			continue
		}
		rows = append(rows, t)
		table += fmt.Sprintf("%s\t%d\t%s\t%s\t%s\t%s\n", t.ID, t.PID, t.Status, t.Bundle, t.Created, t.Owner)
		quiet += id + "\n"
	}
	switch format := c.text("format"); {
	case c.on("quiet"):
		return say([]byte(quiet))
	case format == "json":
		return say(append(bundle.AppendList(nil, rows), '\n'))
	case format == "" || format == "table":
		return say([]byte(columns(table)))
	}
	return c.fail(errors.New("invalid format option"))
}

// columns puts cells that are separated by tabs under each other.
func columns(table string) string {
	var width []int
	lines := strings.Split(strings.TrimSuffix(table, "\n"), "\n")
	for _, l := range lines {
		for i, cell := range strings.Split(l, "\t") {
			if i == len(width) {
				width = append(width, 9)
			}
			width[i] = max(width[i], len(cell))
		}
	}
	var b strings.Builder
	for _, l := range lines {
		cells := strings.Split(l, "\t")
		for i, cell := range cells {
			b.WriteString(cell)
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-len(cell)+3))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}
