package bundle

import (
	"encoding/base64"
	"encoding/binary"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/seccomp"
	"launch/settings"
)

// annotationPrefix begins the annotations by which engines ask for what the
// specification has no field for. They come from crun.
const annotationPrefix = "run.oci."

// PidfdReceiver names a socket that gets a descriptor of the first process.
const PidfdReceiver = annotationPrefix + "pidfd_receiver"

const (
	keepGroups     = annotationPrefix + "keep_original_groups"
	hooksStdout    = annotationPrefix + "hooks.stdout"
	hooksStderr    = annotationPrefix + "hooks.stderr"
	contextType    = annotationPrefix + "mount_context_type"
	failUnknown    = annotationPrefix + "seccomp_fail_unknown_syscall"
	filterReceiver = annotationPrefix + "seccomp.receiver"
	filterProgram  = annotationPrefix + "seccomp_bpf_data"
)

var annotationNames = [...]string{keepGroups, hooksStdout, hooksStderr, contextType, failUnknown, filterReceiver, filterProgram, PidfdReceiver}

// UnsafeAnnotations are those that change what is done, sorted. A name that
// ends in a dot stands for all that begin with it.
func UnsafeAnnotations() []string {
	names := append([]string{"org.systemd.property."}, annotationNames[:]...)
	slices.Sort(names)
	return names
}

func (r *reader) annotations() {
	a := r.spec.Annotations
	if _, ok := a[""]; ok {
		r.refuse(problem{"/annotations/", nil, "cannot take an annotation without a name", ""})
	}
	r.b.Annotations = a
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if strings.HasPrefix(name, annotationPrefix) && !slices.Contains(annotationNames[:], name) {
			r.warn(problem{annotationAt(name), a[name], "ignored: it is another runtime's", ""})
		}
	}
	if name := PidfdReceiver; a[name] != "" {
		r.absolute(annotationAt(name), a[name])
	}
	if r.linux.MountLabel == "" {
		return
	}
	switch c := a[contextType]; c {
	case "", "context", "fscontext", "defcontext", "rootcontext":
		r.b.MountContext = c
	default:
		r.refuseWord(annotationAt(contextType), "context of a mount", c, "context", "fscontext", "defcontext", "rootcontext")
	}
}

func annotationAt(name string) string {
	return "/annotations/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
}

// annotated reports whether an annotation that is a switch is on.
func (r *reader) annotated(name string) bool {
	v, ok := r.spec.Annotations[name]
	return ok && v != "0"
}

// hookFile is the file that takes what hooks write.
func (r *reader) hookFile(name string) string {
	if r.spec.Annotations[name] == "" {
		return ""
	}
	return r.absolute(annotationAt(name), r.spec.Annotations[name])
}

// givenFilter is a filter that the bundle has as a program, and not as
// linux.seccomp describes one.
func (r *reader) givenFilter(text string) {
	at := annotationAt(filterProgram)
	b, err := base64.StdEncoding.DecodeString(text)
	const size, most = 8, 4096 // of an instruction, and the kernel's limit
	if err != nil || len(b) == 0 || len(b)%size != 0 || len(b)/size > most {
		r.refuse(problem{at, nil, "cannot take this for the program of a filter", "it is base64 of 1 to 4096 instructions of 8 bytes"})
		return
	}
	code := make([]unix.SockFilter, len(b)/size)
	for i := range code {
		f := b[i*size:]
		code[i] = unix.SockFilter{Code: binary.NativeEndian.Uint16(f), Jt: f[2], Jf: f[3], K: binary.NativeEndian.Uint32(f[4:])}
	}
	r.b.Filter = &settings.Filter{Filter: seccomp.Filter{Raw: code}, Origin: r.at(at)}
}

// filterSocket is where the listener of the filter goes.
func (r *reader) filterSocket(told string) string {
	if told != "" || r.spec.Annotations[filterReceiver] == "" {
		return told
	}
	return path.Clean(r.absolute(annotationAt(filterReceiver), r.spec.Annotations[filterReceiver]))
}
