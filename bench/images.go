package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"launch/internal/itest/images"
)

// imageLayers is how many layers the image has that is pulled.
const imageLayers = 8

// puller gets an image from a registry into a directory that is empty before.
type puller struct {
	name  string
	most  map[string]float64 // our share of its time that is still fine, by store
	steps func(store, ref string) [][]string
	env   func(store string) []string
	times []float64
}

// pulls compares `launch pull` with podman, and with skopeo and umoci: the same
// image, from the same registry on the loopback interface, each time into an
// empty store, on a tmpfs and on the disk. On the disk it counts until all is
// written, from caches that were dropped. Then it compares the start of a
// machine from that image with one from a directory.
func pulls(w io.Writer, tree, only string, rounds int, launchers []string) (err error) {
	if os.Getuid() != 0 || len(launchers) == 0 {
		return errors.New("it takes root, and -launch")
	}
	_, launch, _ := strings.Cut(launchers[0], "=")
	for _, p := range []string{"skopeo", "umoci", "podman", "docker-registry"} {
		if _, err := exec.LookPath(p); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("/var/tmp", "launch-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	memory := filepath.Join(dir, "memory")
	if err := os.Mkdir(memory, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", memory, "tmpfs", 0, "size=4g"); err != nil {
		return err
	}
	defer syscall.Unmount(memory, syscall.MNT_DETACH)
	disk := filepath.Join(dir, "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		return err
	}
	layout := filepath.Join(memory, "layout")
	if err := images.Layout(tree, imageLayers, layout); err != nil {
		return err
	}
	host, end, err := registry(memory)
	if err != nil {
		return err
	}
	defer end()
	ref := host + "/debian:v1"
	if err := command(nil, "skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "oci:"+layout+":v1", "docker://"+ref); err != nil {
		return err
	}
	field := []*puller{
		{name: "launch pull", steps: func(store, ref string) [][]string { return [][]string{{launch, "pull", "--quiet", ref}} },
			env: func(store string) []string { return []string{"LAUNCH_STORE=" + store + "/launch"} }},
		{name: "podman pull", most: map[string]float64{"tmpfs": 0.5, "disk": 0.8}, steps: func(store, ref string) [][]string {
			return [][]string{{"podman", "--root", store + "/podman", "--runroot", store + "/run", "--storage-driver", "overlay", "pull", "-q", "--tls-verify=false", ref}}
		}},
		{name: "skopeo copy, umoci unpack", most: map[string]float64{"tmpfs": 0.5, "disk": 0.8}, steps: func(store, ref string) [][]string {
			return [][]string{
				{"skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "docker://" + ref, "oci:" + store + "/layout:v1"},
				{"umoci", "unpack", "--image", store + "/layout:v1", store + "/bundle"},
			}
		}},
	}
	fmt.Fprintf(w, "An image of %s, %d layers, %d rounds: medians in ms.\n\n%-8s %-28s %9s %9s %7s %7s\n", tree, imageLayers, rounds, "store", "", "median", "best", "ratio", "at most")
	for _, store := range []string{"tmpfs", "disk"} {
		if only != "" && only != store {
			continue
		}
		at := map[string]string{"tmpfs": memory, "disk": disk}[store]
		for _, p := range field {
			p.times = nil
		}
		for range rounds {
			for _, i := range rand.Perm(len(field)) {
				took, err := field[i].once(filepath.Join(at, "store"), ref, store == "disk")
				if err != nil {
					return fmt.Errorf("%s: %w", field[i].name, err)
				}
				field[i].times = append(field[i].times, took)
			}
		}
		for _, p := range field {
			slices.Sort(p.times)
			fmt.Fprintf(w, "%-8s %-28s %9.0f %9.0f", store, p.name, p.times[len(p.times)/2], p.times[0])
			if p.most != nil {
				fmt.Fprintf(w, " %7.2f %7.2f", field[0].times[rounds/2]/p.times[rounds/2], p.most[store])
			}
			fmt.Fprintln(w)
		}
	}
	if only != "" && only != "start" {
		return nil
	}
	return starts(w, launch, tree, ref, disk, rounds)
}

// once pulls, and gives the milliseconds it took.
func (p *puller) once(store, ref string, sync bool) (float64, error) {
	if err := os.RemoveAll(store); err != nil {
		return 0, err
	}
	if err := os.Mkdir(store, 0o700); err != nil {
		return 0, err
	}
	if sync {
		syscall.Sync()
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
			return 0, err
		}
	}
	var env []string
	if p.env != nil {
		env = p.env(store)
	}
	begun := time.Now()
	for _, s := range p.steps(store, ref) {
		if err := command(env, s...); err != nil {
			return 0, err
		}
	}
	if sync {
		if err := command(nil, "sync", "-f", store); err != nil {
			return 0, err
		}
	}
	return float64(time.Since(begun).Microseconds()) / 1000, nil
}

func command(env []string, words ...string) error {
	c := exec.Command(words[0], words[1:]...)
	c.Env = append(os.Environ(), env...)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(words, " "), err, out)
	}
	return nil
}

// registry runs docker-registry on the loopback interface.
func registry(dir string) (host string, end func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	host = l.Addr().String()
	l.Close()
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %s}\nhttp: {addr: %s}\n", filepath.Join(dir, "registry"), host)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", nil, err
	}
	c := exec.Command("docker-registry", "serve", config)
	if err := c.Start(); err != nil {
		return "", nil, err
	}
	end = func() {
		c.Process.Kill()
		c.Wait()
	}
	for range 100 {
		if r, err := http.Get("http://" + host + "/v2/"); err == nil {
			r.Body.Close()
			return host, end, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	end()
	return "", nil, errors.New("docker-registry doesn't come up")
}

// starts compares machines from the image with machines from a directory that
// holds the same, each by each. What is to be compared has the same users and
// network: run with -U --private-network, run with nothing private with the rest.
func starts(w io.Writer, launch, tree, ref, dir string, rounds int) error {
	store := filepath.Join(dir, "started")
	env := []string{"LAUNCH_STORE=" + store}
	if err := command(env, launch, "pull", "--quiet", ref); err != nil {
		return err
	}
	// One of its own: a machine from a directory may change that.
	mine := filepath.Join(dir, "tree")
	if err := command(nil, "cp", "-a", tree, mine); err != nil {
		return err
	}
	leave, err := ownCgroups("launch-bench-images")
	if err != nil {
		return err
	}
	defer leave()
	common := []string{"--quiet", "--console=pipe", "--register=no", "--keep-unit"}
	const ours = 3
	field := []struct {
		name  string
		words []string
		times []float64
	}{
		{name: "launch run", words: []string{"run", ref}},
		{name: "launch run --name=", words: []string{"run", "--name=kept", ref}},
		{name: "launch run, nothing private", words: []string{"run", "--private-users=no", "--network=host", ref}},
		{name: "launch -D -U --private-network", words: []string{"-U", "--private-network", "-D", mine}},
		{name: "  and --volatile=overlay", words: []string{"-U", "--private-network", "-D", mine, "--volatile=overlay"}},
		{name: "launch -D", words: []string{"-D", mine}},
		{name: "  and --volatile=overlay", words: []string{"-D", mine, "--volatile=overlay"}},
	}
	for i := range field {
		f := &field[i]
		at := 0
		if i < ours {
			at = 1
		}
		f.words = slices.Concat([]string{launch}, f.words[:at], common, f.words[at:], []string{"/bin/true"})
	}
	for round := range rounds*4 + 2 {
		for _, i := range rand.Perm(len(field)) {
			begun := time.Now()
			if err := command(env, field[i].words...); err != nil {
				return err
			}
			if round >= 2 { // the first ones fill caches
				field[i].times = append(field[i].times, float64(time.Since(begun).Microseconds())/1000)
			}
		}
	}
	fmt.Fprintf(w, "\n%-40s %9s %9s %9s %9s %9s %9s\n", "start", "median", "best", "run", "--name=", "nothing", "at most")
	for i := range field {
		f := &field[i]
		slices.Sort(f.times)
		middle := len(f.times) / 2
		fmt.Fprintf(w, "%-40s %9.2f %9.2f", f.name, f.times[middle], f.times[0])
		if i >= ours {
			for n := range ours {
				fmt.Fprintf(w, " %9.2f", field[n].times[middle]/f.times[middle])
			}
			fmt.Fprintf(w, " %9.2f", 1.3)
		}
		fmt.Fprintln(w)
	}
	return nil
}
