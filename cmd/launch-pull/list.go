package main

import (
	"encoding/json"
	"fmt"
	"os"
	"text/tabwriter"

	"launch/internal/cli"
	"launch/oci/store"
)

// listed is an image as `launch images --json` shows it.
type listed struct {
	Name     string `json:"name"`
	Digest   string `json:"digest"`
	Platform string `json:"platform"`
	// Size is how many bytes it has unpacked, Packed how many in a registry.
	Size   int64 `json:"size"`
	Packed int64 `json:"packed"`
	// Trees are the directories of its layers, lowest first. Tree is the only
	// one, if it is.
	Trees []string `json:"trees"`
	Tree  string   `json:"tree,omitempty"`
}

func list1(s *store.Store, i store.Image) listed {
	l := listed{Name: i.Name, Digest: i.Digest, Platform: i.Platform, Size: i.Size, Packed: i.Packed, Trees: []string{}}
	for _, d := range i.Layers {
		l.Trees = append(l.Trees, s.TreePath(d))
	}
	if len(l.Trees) == 1 {
		l.Tree = l.Trees[0]
	}
	return l
}

func show(list []listed, asJSON bool) int {
	if asJSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(list); err != nil {
			return fail(fmt.Errorf("print the images: %w", err))
		}
		return 0
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tDIGEST\tPLATFORM\tLAYERS\tSIZE")
	for _, i := range list {
		fmt.Fprintf(w, "%s\t%.19s\t%s\t%d\t%s\n", cli.Printable(i.Name), i.Digest, cli.Printable(i.Platform), len(i.Trees), bytes(i.Size))
	}
	if err := w.Flush(); err != nil {
		return fail(fmt.Errorf("print the images: %w", err))
	}
	return 0
}

// bytes gives a size for people.
func bytes(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}
