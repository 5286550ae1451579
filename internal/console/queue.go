package console

// queue holds bytes on their way.
type queue struct {
	b []byte
	r int // what is before it has gone
}

func (q *queue) len() int      { return len(q.b) - q.r }
func (q *queue) bytes() []byte { return q.b[q.r:] }

func (q *queue) drop(n int) {
	q.r += n
	if q.r == len(q.b) {
		q.b, q.r = q.b[:0], 0
	}
}

func (q *queue) append(b []byte) {
	if q.r > 0 && len(q.b)+len(b) > cap(q.b) {
		q.pack()
	}
	q.b = append(q.b, b...)
}

// tail is where to read into, so that at most room bytes wait afterwards; grew
// tells how many came. Room is allocated as a whole, once.
func (q *queue) tail(room int) []byte {
	if cap(q.b) < room {
		q.b = append(make([]byte, 0, room), q.bytes()...)
		q.r = 0
	}
	if len(q.b) == cap(q.b) {
		q.pack()
	}
	return q.b[len(q.b):min(cap(q.b), len(q.b)+max(0, room-q.len()))]
}

func (q *queue) grew(n int) { q.b = q.b[:len(q.b)+n] }

func (q *queue) pack() {
	n := copy(q.b, q.b[q.r:])
	q.b, q.r = q.b[:n], 0
}
