package entry

// Forget gives the program's code and constants back to the kernel, which brings them
// again, page by page, when they are needed. It is for a program that waits: it needs
// next to none of them, and to take down the mapping of what a start has needed takes
// longer at its end than to bring back what an end needs.
//
// It changes nothing but the time that the next calls take, and the memory that is
// counted as the program's.
func Forget() {
	// From where the first segment begins, wherever pages end; up to and with the
	// page in which the table of functions ends. What is written lies on pages of
	// its own.
	from, to := code()
	from &^= 0xffff
	advise(from, to-from, dontNeed)
}

// code gives where the program's code begins, and where the table of its functions
// ends.
func code() (from, to uintptr)

// advise is madvise(2). Its errors are ignored.
func advise(at, size, how uintptr)

const (
	dontNeed      = 4  // MADV_DONTNEED
	populateWrite = 23 // MADV_POPULATE_WRITE, since Linux 5.14
)
