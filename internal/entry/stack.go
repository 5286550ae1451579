package entry

// Stack gives the calling goroutine a stack that is large enough for a start,
// at once. Go begins with 2 KB and doubles, and each time it looks through all
// frames, copies them, and takes memory that nobody had yet: on the way down
// to the deepest call that costs a start a tenth of a millisecond or two. Here
// there is next to nothing to copy.
//
//go:noinline
func Stack() { room(false) }

// room has a frame that the stack must have room for, and doesn't touch it.
//
//go:noinline
func room(used bool) byte {
	if used {
		var frame [40 << 10]byte
		return last(frame[:])
	}
	return 0
}

//go:noinline
func last(b []byte) byte { return b[len(b)-1] }
