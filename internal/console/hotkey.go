package console

import "time"

// Hotkey is what the user asked of the launcher, instead of the machine.
type Hotkey byte

// Ctrl-] three times, or twice and a letter, all within a second.
const (
	Kill     Hotkey = ']' // end the machine at once
	Poweroff Hotkey = 'p' // ask it to power off
	Reboot   Hotkey = 'r' // ask it to reboot
	// Any other letter a to z stands for itself and has no meaning: the
	// caller tells the user which ones there are.
)

const (
	escape = 0x1d // Ctrl-]
	within = time.Second
)

// keys finds hotkeys in what is typed.
//
// Nothing is held back: the first two Ctrl-] go into the machine at once, like
// any other byte, since editors and telnet know that key too and a user who
// wants it there must not wait. Only the byte that completes a hotkey is kept
// from the machine. So bytes in are bytes out, less one per hotkey.
type keys struct {
	n   int          // how many Ctrl-] in a row, at most 2
	at  [2]time.Time // when
	hit []Hotkey     // hotkeys found and not yet reported
}

// filter takes the completing bytes out of b, in place, and notes the hotkeys.
func (k *keys) filter(b []byte, now time.Time) []byte {
	out := b[:0]
	for _, c := range b {
		// What is older than a second no longer counts; the younger of two
		// may still begin a sequence.
		if k.n == 2 && now.Sub(k.at[0]) > within {
			k.n, k.at[0] = 1, k.at[1]
		}
		switch {
		case c == escape && k.n == 2:
			k.n, k.hit = 0, append(k.hit, Kill)
			continue
		case c == escape:
			k.at[k.n] = now
			k.n++
		case k.n == 2 && 'a' <= c && c <= 'z':
			k.n, k.hit = 0, append(k.hit, Hotkey(c))
			continue
		default:
			k.n = 0
		}
		out = append(out, c)
	}
	return out
}
