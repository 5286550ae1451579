package seccomp

import (
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzCompile reads a filter from bytes, then judges calls at its edges.
func FuzzCompile(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, uint64(1))
	f.Add([]byte{6, 2, 1, 9, 200, 3, 0, 1, 40, 40, 2, 7, 1, 255, 255, 255, 255, 255, 4, 4, 4, 4}, uint64(2))
	f.Fuzz(func(t *testing.T, text []byte, seed uint64) {
		next := func() uint64 {
			if len(text) == 0 {
				return 0
			}
			b := text[0]
			text = text[1:]
			return uint64(b)
		}
		value := func() uint64 {
			v := next()
			return v << (8 * (next() % 8)) // a byte somewhere in the word
		}
		actions := []Action{Allow, KillThread, Errno(1), Errno(unix.ENOSYS), Notify, Trace(3)}
		action := func() Action { return actions[next()%uint64(len(actions))] }
		flt := Filter{Archs: archSets[next()%uint64(len(archSets))], Default: action(), BadArch: action()}
		bits := next()
		flt.NewerENOSYS, flt.CondsStayDirect = bits&1 != 0, bits&2 != 0
		for len(text) > 0 && len(flt.Rules) < 64 {
			r := Rule{Action: action()}
			shape := next()
			for range shape % 4 {
				r.Names = append(r.Names, callNames[(next()*3+next())%uint64(len(callNames))])
			}
			for range shape / 4 % 4 {
				r.Conds = append(r.Conds, Cond{Arg: uint8(next() % 6), Op: Op(1 + next()%7), Value: value(), Mask: value()})
			}
			if shape&64 != 0 {
				r.Archs = flt.Archs[:1]
			}
			flt.Rules = append(flt.Rules, r)
		}
		prog, err := flt.Compile()
		if err != nil {
			t.Skip(err)
		}
		if err := wellFormed(prog); err != nil {
			t.Fatal(err)
		}
		rnd := rand.New(rand.NewPCG(seed, 0))
		var edges []uint64
		var numbers []call
		for _, a := range flt.Archs {
			numbers = append(numbers, call{arch: a, nr: rnd.Uint32N(700)}, call{arch: a, nr: rnd.Uint32()})
			for i := range flt.Rules {
				for _, n := range flt.Rules[i].Names {
					if nr, ok := a.Number(n); ok {
						numbers = append(numbers, call{arch: a, nr: nr}, call{arch: a, nr: nr + 1}, call{arch: a, nr: nr ^ x32Bit})
					}
				}
			}
			for _, carrier := range []string{"socketcall", "ipc"} {
				if nr, ok := a.Number(carrier); ok {
					numbers = append(numbers, call{arch: a, nr: nr})
				}
			}
		}
		edges = append(edges, 0, ^uint64(0))
		for i := range flt.Rules {
			for _, c := range flt.Rules[i].Conds {
				edges = append(edges, c.Value, c.Value-1, c.Value+1, c.Value^1<<33, c.Mask)
			}
		}
		for _, c := range numbers {
			for range 8 {
				for i := range c.args {
					c.args[i] = edges[rnd.IntN(len(edges))]
				}
				if rnd.IntN(2) == 0 {
					c.args[0] = rnd.Uint64N(26)
				}
				got, _, err := interpret(prog, c)
				if err != nil {
					t.Fatal(err)
				}
				if want := model(&flt, c); got != want {
					t.Fatalf("%v %d %#x: %v, the model says %v\n%+v", c.arch, c.nr, c.args, got, want, flt)
				}
			}
		}
	})
}
