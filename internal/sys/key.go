package sys

import "golang.org/x/sys/unix"

// SessionKeyring asks for the session keyring; ENOSYS says that the kernel has
// no keys, EPERM or EACCES that something around us forbids them.
func SessionKeyring() (int, error) {
	const special = -3 // KEY_SPEC_SESSION_KEYRING
	return result(call("keyctl", unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, fd(special), 0, 0, 0, 0))
}
