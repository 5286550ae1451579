package stub

// machine is what ELF calls this architecture.
const machine = 183
