package settings

import (
	"launch/internal/origin"
)

// Option is one row of the table in options.go: one thing that can be said
// about a machine, and every way to say it.
type Option struct {
	// Name is unique, and what a Trace and an Origin lookup go by.
	Name string
	// Same names another row that this one is a second spelling of: the later
	// of the two hides the earlier.
	Same string
	// Flag is the long option, Short its letter; either may be missing.
	Flag  string
	Short byte
	// Section and Key are the place in a .nspawn file.
	Section, Key string
	Arg          Arg
	// Placeholder stands for the argument in --help.
	Placeholder string
	// Enum lists the values if they are few.
	Enum []string
	// List gives them if they are many; see Values.
	List func() []string
	// Env is a variable of the launcher's environment that says the same; what
	// it says is the default of the other two.
	Env string
	// Group is what is merged together: see Resolve.
	Group Group
	// Topic is the heading in --help; a row without one isn't listed.
	Topic Topic
	// Repeat: a later assignment adds to the earlier ones, and doesn't hide
	// them.
	Repeat bool
	// Trusted says which files may set it. A row must say so.
	Trusted Trust
	// Weaker reports whether the assignment would take away protection that
	// the settings have. It goes with Tighten.
	Weaker func(Settings, Assignment) bool
	// Empty says what `Key=` does.
	Empty Empty
	// Since is the version of systemd-nspawn that has it first; 0 is older
	// than its manual tells.
	Since int
	Help  string
	// Old: a spelling that works with a warning, which names this flag.
	Old string
	// Later: known, but not supported yet. Saying it is an error, on the command
	// line and in a file that may say it.
	Later bool
	// Parse reads the argument. A flag without one gets "yes".
	Parse func(Place, string) (any, error)
	// ParseKey reads the value of Key where that has other rules.
	ParseKey func(Place, string) (any, error)
	// Row names the row that the value belongs to, where one flag has several.
	Row func(value any) string
	// Notice tells what a person should know who gives the machine this value;
	// empty if nothing.
	Notice func(value any) string
	// Set puts the value into the settings. A row without Set is the
	// launcher's own, and no setting.
	Set func(*Settings, Assignment)
}

// Place is what a value may refer to: where the launcher was started.
type Place struct {
	// Cwd is an absolute path without symlinks.
	Cwd string
	// Env is the caller's environment, NAME=VALUE.
	Env []string
}

// Arg says whether an option takes an argument.
type Arg uint8

// The kinds of Arg. The order is getopt's.
const (
	NoArg Arg = iota
	RequiredArg
	OptionalArg
	// LooseArg: an argument makes it an old spelling of another row, Old. It is
	// behind an equals sign, or the next word unless that begins with a dash.
	LooseArg
)

// Empty says what an empty value in a file does.
type Empty uint8

// The kinds of Empty.
const (
	EmptyWarns   Empty = iota // a warning, and nothing else
	EmptyClears               // takes back what the file said before
	EmptyNothing              // nothing at all
)

// Trust says which files may set an option.
type Trust uint8

// The marks. Zero is no mark, so that a forgotten one is found by a test.
const (
	Unmarked Trust = iota
	// TrustedOnly: gives the payload something, so that only a file in a
	// directory of the administrator may say it.
	TrustedOnly
	// Tighten: any file, as long as the machine doesn't get weaker by it.
	Tighten
	// Anyone: only the payload is affected.
	Anyone
	// NoFile: no key.
	NoFile
)

// Group is a set of options of which a file's replace the built-in ones
// together, or not at all.
type Group string

// The groups.
const (
	GroupLauncher      Group = "launcher" // never merged
	GroupDirectory     Group = "directory"
	GroupMachine       Group = "machine"
	GroupTemplate      Group = "template"
	GroupEphemeral     Group = "ephemeral"
	GroupReadOnly      Group = "read-only"
	GroupVolatile      Group = "volatile"
	GroupMounts        Group = "mounts"
	GroupSaved         Group = "saved-mounts"
	GroupStart         Group = "start mode"
	GroupEnvironment   Group = "environment"
	GroupUser          Group = "user"
	GroupChdir         Group = "chdir"
	GroupHostname      Group = "hostname"
	GroupCapabilities  Group = "capabilities"
	GroupNoNewPrivs    Group = "no-new-privileges"
	GroupSystemCalls   Group = "system-call-filter"
	GroupKillSignal    Group = "kill-signal"
	GroupUsers         Group = "private-users"
	GroupNetwork       Group = "network"
	GroupBindUser      Group = "bind-user"
	GroupBindUserShell Group = "bind-user-shell"
	GroupBindUserGroup Group = "bind-user-group"
	GroupPorts         Group = "ports"
	GroupConsole       Group = "console"
	GroupQuiet         Group = "quiet"
	GroupRegister      Group = "register"
	GroupKeepUnit      Group = "keep-unit"
	GroupManager       Group = "manager"
	GroupSlice         Group = "slice"
	GroupProperty      Group = "property"
	GroupResolvConf    Group = "resolv-conf"
	GroupTimezone      Group = "timezone"
	GroupLinkJournal   Group = "link-journal"
	GroupForward       Group = "forward-journal"
	GroupNotifyReady   Group = "notify-ready"
	GroupCredentials   Group = "credentials"
	GroupPivot         Group = "pivot-root"
	GroupMachineID     Group = "machine-id"
	GroupPersonality   Group = "personality"
	GroupSuppressSync  Group = "suppress-sync"
	GroupFamilies      Group = "address families"
	GroupLimits        Group = "limits" // each limit is a group of its own
	GroupSELinux       Group = "selinux"
	GroupOOM           Group = "oom-score-adjust"
	GroupCPUs          Group = "cpu-affinity"
	GroupNamespaces    Group = "namespaces"
	GroupSwitches      Group = "switches" // of the environment only
	GroupProfile       Group = "profile"
	GroupJoin          Group = "join"
	GroupOverlayAll    Group = "overlay-all"
	GroupLater         Group = "later"
)

// Topic is a heading of --help.
type Topic string

// The headings, in their order.
const (
	TopicImage   Topic = "Image"
	TopicExec    Topic = "Execution"
	TopicUsers   Topic = "Users"
	TopicNetwork Topic = "Network"
	TopicLimits  Topic = "Security"
	TopicMounts  Topic = "Mounts"
	TopicLife    Topic = "Integration"
	TopicOther   Topic = "Other"
)

// Topics is the order of the headings.
var Topics = [...]Topic{TopicImage, TopicExec, TopicUsers, TopicNetwork, TopicLimits, TopicMounts, TopicLife, TopicOther}

// Assignment is one thing that somebody said.
type Assignment struct {
	// Option is the row; never nil.
	Option *Option
	// Value is what Option.Parse gave; nil if Reset or untold.
	Value  any
	Origin origin.Origin
	// Text is the value as written, for errors and the Trace.
	Text string
	// Reset: an empty value, which takes back what was said before.
	Reset bool
	// Untrusted: said by a file that lies beside the tree.
	Untrusted bool
	// Err: what a file says can't be had, and must not be left out either. It
	// is an error if the assignment counts.
	Err error
}

// Refusal is what Parse gives for a value without which the machine would be
// another one than was asked for: also in a file it is an error, and no warning.
type Refusal struct {
	What, Hint string
}

func (r *Refusal) Error() string { return r.What }

// Partial is what Parse gives beside a value that holds: a part of the text was
// left out. In a file that is a warning.
type Partial struct{ error }

// Values are the words that the option may be told, as far as there is a list.
func (o *Option) Values() []string {
	if o.List != nil {
		return o.List()
	}
	return o.Enum
}

// Find gives the row of that name; nil if there is none.
func Find(name string) *Option {
	for i := range Options {
		if Options[i].Name == name {
			return &Options[i]
		}
	}
	return nil
}

// FindKey gives the row of a key in a .nspawn file; nil if there is none.
func FindKey(section, key string) *Option {
	for i := range Options {
		if o := &Options[i]; o.Key == key && o.Section == section && key != "" {
			return o
		}
	}
	return nil
}

// slot is what the row sets, whatever its spelling.
func (o *Option) slot() string {
	if o.Same != "" {
		return o.Same
	}
	return o.Name
}

// Error is a wrong value, and the place where a person wrote it.
type Error struct {
	// What is wrong: verb and object, lower case.
	What   string
	Origin origin.Origin
	// Value is the text that was written there.
	Value string
	// Hint says what to do instead; may be empty.
	Hint string
}

func (e *Error) Error() string { return e.What }

// Place gives `web.nspawn:4 (PrivateUsers=pick)` or `--private-users=pick`;
// empty if nobody wrote the value.
func (e *Error) Place() string { return written(e.Origin, e.Value) }

// Warning is something that was ignored or is no longer done this way.
type Warning = Error

func written(o origin.Origin, value string) string {
	switch {
	case o == origin.Origin{}:
		return ""
	case o.Source == origin.Environment && value != "":
		return o.String() + "=" + value
	case o.Source == origin.CommandLine:
		switch {
		case value == "":
			return o.Path
		case len(o.Path) == 2:
			return o.Path + " " + value
		}
		return o.Path + "=" + value
	case o.Source == origin.Bundle && value != "":
		return o.String() + ": " + value
	case o.Key != "" && o.Source != origin.Bundle:
		key := o.Key
		o.Key = ""
		return o.String() + " (" + key + value + ")"
	}
	return o.String()
}
