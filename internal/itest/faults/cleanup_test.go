package faults

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFaultCleanup lets the clean-up itself fail, at each of its calls, after
// a start that was killed: it says so, or has done everything all the same, and
// another clean-up ends what it began.
func TestFaultCleanup(t *testing.T) {
	w := theOne(t)
	for _, k := range []struct {
		name, lane, site string // where the start is killed; the last such call
	}{
		{"mounts", "main", "write engine.builder.release<engine.builder.build"},
		{"again", "main", "write engine.builder.release<engine.builder.build"},
		{"booted", "main", "read engine.builder.heard<engine.builder.begun"},
		{"tree", "main", "write engine.builder.release<engine.builder.build"},
		{"template", "copy0", "fchownat"},
		{"passing", "main", "write engine.builder.release<engine.builder.build"},
	} {
		if !whole() && k.name != "mounts" {
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			m := every()[slices.IndexFunc(every(), func(m machine) bool { return m.name == k.name })]
			calls, _, _ := w.reference(t, m)
			var at *call
			for i := range calls {
				if c := &calls[i]; strings.HasPrefix(c.lane, k.lane) && strings.HasPrefix(c.name+" "+c.site, k.site) {
					at = c
				}
			}
			if at == nil {
				t.Fatalf("a start makes no call %s in %s", k.site, k.lane)
			}
			// residue makes it, and gives what there was before.
			residue := func() []string {
				before, r, err := w.disturbed(m, *at, "kill")
				if came, ok := w.hit(*at); err != nil || r.status != -1 || !ok {
					t.Fatalf("a start that was to be killed at %v came to %q: %v %v", *at, came, r, err)
				}
				w.quiet(2 * time.Second)
				return before
			}
			before := residue()
			log := desk + "/log"
			os.Remove(log)
			r, err := w.run([]string{"LAUNCH_FAULT_LOG=" + log}, w.fault, "--cleanup")
			if err != nil || r.status != 0 || !strings.HasPrefix(r.err, "launch: cleaned up after machine ") {
				t.Fatalf("an undisturbed clean-up: %v %v", r, err)
			}
			if err := w.clean(m, before); err != nil {
				t.Fatalf("an undisturbed clean-up: %v", err)
			}
			text, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			list, err := parseLog(string(text))
			if err != nil {
				t.Fatal(err)
			}
			if m.drifts {
				// What the payload has come to, and left, is not the same each time.
				seen := map[string]int{}
				for i := range list {
					c := &list[i]
					seen[c.name+c.site]++
					c.again = seen[c.name+c.site]
				}
			}
			s := &tally{kinds: map[string]int{}}
			began := time.Now()
			for i, c := range list {
				if !whole() && i%5 != 0 {
					s.skipped++
					continue
				}
				for _, what := range []string{"kill", "EPERM", "ENOMEM"} {
					switch {
					case what == "kill":
						s.kills++
					case c.always():
						s.always++
						continue
					default:
						s.faults++
					}
					before := residue()
					os.Remove(desk + "/hit")
					r, err := w.run([]string{"LAUNCH_FAULT=" + c.fault(what), "LAUNCH_FAULT_HIT=" + desk + "/hit"}, w.fault, "--cleanup")
					_, came := w.hit(c)
					if err == nil && (came || c.again == 0) {
						err = w.judgeCleanup(m, c, what, r, before)
					} else if err == nil {
						s.missed++
					}
					if err != nil {
						err = fmt.Errorf("%w [%v]", err, r)
					}
					if cerr := w.cleanUp(); err == nil {
						err = cerr
					}
					if cerr := w.clean(m, before); err == nil && cerr != nil {
						err = fmt.Errorf("after another clean-up: %w", cerr)
					}
					if err != nil {
						s.wrong++
						t.Errorf("%s: killed at %v, clean-up with LAUNCH_FAULT=%s (%s): %v", m.name, at, c.fault(what), c, err)
						w.scrub()
						continue
					}
					s.ok++
				}
			}
			t.Logf("%s: clean-up of %d calls: %d failures + %d kills: %d ok, %d wrong; %d never came; %d calls left out; took %v",
				m.name, len(list), s.faults, s.kills, s.ok, s.wrong, s.missed, s.skipped, time.Since(began).Round(time.Second))
			if s.missed > (s.faults+s.kills)/2 {
				t.Errorf("%s: most of the calls never came", m.name)
			}
		})
	}
}

func (w *world) judgeCleanup(m machine, c call, what string, r result, before []string) error {
	e := errnoOf(what)
	came, _ := w.hit(c)
	switch {
	case r.hung:
		return fmt.Errorf("hangs")
	case came != c.name+" "+c.site:
		return fmt.Errorf("the call never came, but %q", came)
	case e == 0 && r.status == -1:
		return nil
	case e != 0 && r.status == 1:
		if !strings.Contains("\n"+r.err, "\nlaunch: cannot clean up: ") || !strings.Contains(r.err, e.Error()) {
			return fmt.Errorf("the message doesn't say what went wrong")
		}
		return nil
	case e != 0 && r.status == 0:
		if err := w.clean(m, before); err != nil {
			return fmt.Errorf("status 0, and %w", err)
		}
		return nil
	}
	return fmt.Errorf("an unexpected status")
}

// clean tells whether nothing is left.
func (w *world) clean(m machine, before []string) error {
	left := w.quiet(2 * time.Second)
	now, err := w.things(m)
	if err != nil {
		return err
	}
	if left = append(left, changed(m, before, now)...); len(left) > 0 {
		return fmt.Errorf("left: %s", strings.Join(left, "; "))
	}
	return nil
}

// TestFaultCleanupCalls: a clean-up asks nothing that it doesn't need. The name
// of a machine tells all there is to know.
func TestFaultCleanupCalls(t *testing.T) {
	w := theOne(t)
	if err := w.fresh(plain); err != nil {
		t.Fatal(err)
	}
	for words, most := range map[string]int{"--machine=nobody": 4, "--directory=" + root: 8} {
		log := desk + "/log"
		os.Remove(log)
		r, err := w.run([]string{"LAUNCH_FAULT_LOG=" + log}, w.fault, "--cleanup", words)
		if err != nil || r.status != 0 || r.err != "" {
			t.Fatalf("%s: %v %v", words, r, err)
		}
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "\n"); n > most || n == 0 {
			t.Errorf("%s: %d calls, want %d at most:\n%s", words, n, most, text)
		}
	}
}

// TestFaultForever lets every kind of call fail from some time on, for ever: no
// loop waits for it to work again. What is tried again must end. Each call site
// is tried with the first machine that has it.
func TestFaultForever(t *testing.T) {
	w := theOne(t)
	if !whole() {
		t.Skip("set LAUNCH_TEST=faults to run it")
	}
	seen := map[string]bool{}
	for _, m := range every() {
		t.Run(m.name, func(t *testing.T) {
			calls, want, _ := w.reference(t, m)
			began, tried := time.Now(), 0
			for _, c := range calls {
				if site := c.name + " " + c.site; c.always() || seen[site] {
					continue
				} else {
					seen[site] = true
				}
				for _, e := range []unix.Errno{unix.EPERM, unix.ENOMEM} {
					tried++
					if err := w.forever(m, c, unix.ErrnoName(e)+"+", want); err != nil {
						t.Errorf("%s: LAUNCH_FAULT=%s (%s): %v", m.name, c.fault(unix.ErrnoName(e)+"+"), c, err)
					}
				}
			}
			t.Logf("%s: %d call sites that no machine before had fail for ever, took %v", m.name, tried, time.Since(began).Round(time.Second))
		})
	}
}

func (w *world) forever(m machine, c call, what string, want vector) error {
	before, r, err := w.disturbed(m, c, what)
	if err != nil {
		return err
	}
	_, verdict := w.judge(m, c, what, r, want)
	if _, ok := w.hit(c); c.again > 0 && !ok {
		verdict = nil // by chance it didn't come
	}
	if _, err = w.after(m, before); err != nil {
		return err
	}
	if verdict != nil {
		return fmt.Errorf("%w [%v]", verdict, r)
	}
	return nil
}
