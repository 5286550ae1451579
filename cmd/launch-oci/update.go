package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/oci/bundle"
	"launch/oci/container"
)

var updateVerb = &verb{
	name: "update", args: "CONTAINER", help: "change the limits of a container", least: 1, most: 1,
	options: []option{
		{names: "resources r", arg: "FILE|-", help: "limits as JSON, as linux.resources of config.json has them"},
		{names: "blkio-weight", arg: "N", help: "weight of its input and output, 10 to 1000"},
		{names: "cpu-period", arg: "MICROSECONDS", help: "how long a period is"},
		{names: "cpu-quota", arg: "MICROSECONDS", help: "how long it may run in each period"},
		{names: "cpu-burst", arg: "MICROSECONDS", help: "how much of it may be saved up"},
		{names: "cpu-share c", arg: "N", help: "its share, 1024 being the usual one"},
		{names: "cpu-rt-period", arg: "MICROSECONDS", help: "period of real-time processes"},
		{names: "cpu-rt-runtime", arg: "MICROSECONDS", help: "how long they may run in each period"},
		{names: "cpu-idle", arg: "0|1", help: "run only when nobody else does"},
		{names: "cpuset-cpus", arg: "LIST", help: "processors it may use"},
		{names: "cpuset-mems", arg: "LIST", help: "memory nodes it may use"},
		{names: "memory", arg: "BYTES", help: "most memory; -1: any"},
		{names: "memory-reservation", arg: "BYTES", help: "memory that it keeps when there is little"},
		{names: "memory-swap", arg: "BYTES", help: "most memory and swap together; -1: any"},
		{names: "kernel-memory", arg: "BYTES", help: "ignored: kernels have no such limit any more"},
		{names: "kernel-memory-tcp", arg: "BYTES", help: "most memory of TCP buffers"},
		{names: "pids-limit", arg: "N", help: "most processes; -1: any"},
		{names: "l3-cache-schema", arg: "SCHEMA", help: "its part of the L3 cache"},
		{names: "mem-bw-schema", arg: "SCHEMA", help: "its part of the memory's bandwidth"},
	},
	run: update,
}

func update(c *call) int {
	r, err := c.resources()
	if err != nil {
		return c.fail(err)
	}
	d, err := c.open()
	if err != nil {
		return c.fail(err)
	}
	defer d.Close()
	if err := d.Reload(); err != nil {
		return c.fail(err)
	}
	o := container.UpdateOptions{Resources: r, Warn: out.warn}
	if c.told("l3-cache-schema") || c.told("mem-bw-schema") {
		o.RDT = &specs.LinuxIntelRdt{L3CacheSchema: c.text("l3-cache-schema"), MemBwSchema: c.text("mem-bw-schema")}
	}
	if err := d.Update(o); err != nil {
		return c.fail(err)
	}
	return 0
}

// resources reads what is to change: from the file, if there is one, else from
// the other options, which then don't count.
func (c *call) resources() (*specs.LinuxResources, error) {
	r := &specs.LinuxResources{}
	if file := c.text("resources"); file != "" {
		text, err := readResources(file)
		if err != nil {
			return nil, err
		}
		told, warnings, err := bundle.DecodeResources(file, text)
		if err != nil {
			return nil, err
		}
		more, err := bundle.CheckResources(file, told)
		if err != nil {
			return nil, err
		}
		for _, w := range append(warnings, more...) {
			out.warn(warning(w))
		}
		return told, nil
	}
	if err := c.cpu(r); err != nil {
		return nil, err
	}
	if err := c.memory(r); err != nil {
		return nil, err
	}
	if c.told("blkio-weight") {
		n, err := c.number("blkio-weight")
		if err != nil {
			return nil, err
		}
		if n < 0 || n > 1000 {
			return nil, fmt.Errorf("invalid value %d for --blkio-weight: it is from 10 to 1000", n)
		}
		w := uint16(n)
		if r.BlockIO == nil {
			r.BlockIO = &specs.LinuxBlockIO{}
		}
		r.BlockIO.Weight = &w
	}
	if c.told("pids-limit") {
		n, err := c.number("pids-limit")
		if err != nil {
			return nil, err
		}
		r.Pids = &specs.LinuxPids{Limit: &n}
	}
	// Options are held as a file is.
	if _, err := bundle.CheckResources("the options", r); err != nil {
		return nil, err
	}
	return r, nil
}

func readResources(file string) (string, error) {
	if file == "-" {
		b, err := sys.ReadAll(0, bundle.Limit)
		if err != nil {
			return "", fmt.Errorf("read resources from standard input: %w", err)
		}
		return string(b), nil
	}
	b, err := sys.ReadFile(unix.AT_FDCWD, file, bundle.Limit)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	return string(b), nil
}

// cpu reads the options about processors.
func (c *call) cpu(r *specs.LinuxResources) error {
	n := specs.LinuxCPU{}
	if r.CPU != nil {
		n = *r.CPU
	}
	any := false
	for _, f := range []struct {
		name string
		to   **uint64
	}{{"cpu-period", &n.Period}, {"cpu-burst", &n.Burst}, {"cpu-share", &n.Shares}, {"cpu-rt-period", &n.RealtimePeriod}} {
		if c.told(f.name) {
			v, err := strconv.ParseUint(c.text(f.name), 10, 64)
			if err != nil {
				return fmt.Errorf("invalid value for %s: %w", f.name, err)
			}
			*f.to, any = &v, true
		}
	}
	for _, f := range []struct {
		name string
		to   **int64
	}{{"cpu-quota", &n.Quota}, {"cpu-rt-runtime", &n.RealtimeRuntime}, {"cpu-idle", &n.Idle}} {
		if c.told(f.name) {
			v, err := strconv.ParseInt(c.text(f.name), 10, 64)
			if err != nil {
				return fmt.Errorf("invalid value for %s: %w", f.name, err)
			}
			*f.to, any = &v, true
		}
	}
	for _, f := range []struct {
		name string
		to   *string
	}{{"cpuset-cpus", &n.Cpus}, {"cpuset-mems", &n.Mems}} {
		if c.told(f.name) {
			*f.to, any = c.text(f.name), true
		}
	}
	if any {
		r.CPU = &n
	}
	return nil
}

// memory reads the options about memory.
func (c *call) memory(r *specs.LinuxResources) error {
	n := specs.LinuxMemory{}
	if r.Memory != nil {
		n = *r.Memory
	}
	any := false
	for _, f := range []struct {
		name string
		to   **int64
	}{{"memory", &n.Limit}, {"memory-reservation", &n.Reservation}, {"memory-swap", &n.Swap}, {"kernel-memory-tcp", &n.KernelTCP}} {
		if c.told(f.name) {
			v, err := parseBytes(c.text(f.name))
			if err != nil {
				return fmt.Errorf("invalid value for %s: %w", f.name, err)
			}
			*f.to, any = &v, true
		}
	}
	if c.told("kernel-memory") {
		out.warn("--kernel-memory is ignored: kernels have no such limit any more")
	}
	if any {
		r.Memory = &n
	}
	return nil
}

// parseBytes reads a number of bytes with a unit, a power of 1024.
func parseBytes(text string) (int64, error) {
	if text == "-1" {
		return -1, nil
	}
	number, factor := strings.ToLower(text), 1.0
	number = strings.TrimSuffix(number, "b")
	number = strings.TrimSuffix(number, "i")
	for i, unit := range []string{"k", "m", "g", "t", "p"} {
		if n, ok := strings.CutSuffix(number, unit); ok {
			number, factor = n, math.Pow(1024, float64(i+1))
			break
		}
	}
	number = strings.TrimSuffix(number, " ")
	bad := fmt.Errorf("invalid size: %q", text)
	if number == "" || strings.Trim(number, "0123456789.") != "" {
		return 0, bad
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n > math.MaxInt64/int64(factor) {
			return 0, errors.New("size too large: " + strconv.Quote(text))
		}
		return n * int64(factor), nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f*factor >= math.MaxInt64 {
		return 0, bad
	}
	return int64(f * factor), nil
}
