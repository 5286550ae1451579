package entry

// Forget gives the program's code and constants back to the kernel, which brings them
// again, page by page, when they are needed. It is for a program that waits: it needs
// next to none of them, and to take down the mapping of what a start has needed takes
// longer at its end than to bring back what an end needs.
//
// It changes nothing but the time that the next calls take, and the memory that is
// counted as the program's.
func Forget()
