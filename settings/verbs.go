package settings

// Verb is a first word that makes launch do something else than to start a
// machine from a directory.
type Verb struct {
	Name string
	// Words are what stands behind the options, as help shows it.
	Words string
	Help  string
	// Options are those that only this verb has. Only their Name, Flag, Short,
	// Arg, Placeholder, Enum, Repeat and Help count.
	Options []Option
	// Start: all options of launch may stand beside them.
	Start bool
}

var (
	optHelp     = Option{Name: "help", Flag: "help", Short: 'h', Help: "Show this text"}
	optQuiet    = Option{Name: "quiet", Flag: "quiet", Short: 'q', Help: "No messages but errors"}
	optJSON     = Option{Name: "json", Flag: "json", Help: "Write JSON"}
	optPlatform = Option{Name: "platform", Flag: "platform", Arg: RequiredArg, Placeholder: "OS/ARCHITECTURE[/VARIANT]", Help: "Which of several images; the host's by default"}
	optPlain    = Option{Name: "plain-http", Flag: "plain-http", Arg: RequiredArg, Placeholder: "HOST[:PORT]", Repeat: true, Help: "A registry that speaks without encryption"}
	optMirror   = Option{Name: "mirror", Flag: "mirror", Arg: RequiredArg, Placeholder: "REGISTRY=HOST[/PATH]", Repeat: true, Help: "Where to look before a registry"}
)

// Verbs are those about images.
var Verbs = [...]Verb{
	{
		Name: "pull", Words: "IMAGE…", Help: "Get images from a registry, a directory or an archive",
		Options: []Option{
			optPlatform, optPlain, optMirror,
			{Name: "max-size", Flag: "max-size", Arg: RequiredArg, Placeholder: "BYTES", Help: "How much a layer may expand to; 64G by default"},
			{Name: "device-nodes", Flag: "device-nodes", Help: "Make the device nodes that are in the image"},
			{Name: "json", Flag: "json", Help: "Write a line of JSON for each event"},
			optQuiet, optHelp,
		},
	},
	{
		Name: "run", Words: "IMAGE [COMMAND [ARGUMENT…]]", Help: "Start a machine from an image", Start: true,
		Options: []Option{
			{Name: "name", Flag: "name", Arg: RequiredArg, Placeholder: "NAME", Help: "Name of the machine, which is kept for the next run"},
			{Name: "rm", Flag: "rm", Help: "Remove at the end what the machine has changed"},
			{Name: "detach", Flag: "detach", Short: 'd', Help: "Go on in the background, once the machine runs"},
			{Name: "entrypoint", Flag: "entrypoint", Arg: RequiredArg, Placeholder: "PROGRAM", Help: "Program to run instead of the image's entry point"},
			{Name: "pull", Flag: "pull", Arg: RequiredArg, Placeholder: "WHEN", Enum: []string{"missing", "always", "never"}, Help: "When to get the image first; missing by default"},
			{Name: "network", Flag: "network", Arg: RequiredArg, Placeholder: "MODE", Enum: []string{"private", "host"}, Help: "A network of its own, loopback only, or the host's"},
			optPlatform, optPlain, optMirror,
		},
	},
	{
		Name: "images", Help: "List the images that are there",
		Options: []Option{optJSON, optHelp},
	},
	{
		Name: "rmi", Words: "[IMAGE…]", Help: "Remove images, and the layers that nobody needs any more",
		Options: []Option{
			{Name: "machine", Flag: "machine", Short: 'M', Arg: RequiredArg, Placeholder: "NAME", Repeat: true, Help: "Remove what this machine has changed"},
			{Name: "unused", Flag: "unused", Help: "Remove only layers that nobody needs"},
			optQuiet, optHelp,
		},
	},
}

// FindVerb gives the verb of that name; nil if there is none.
func FindVerb(name string) *Verb {
	for i := range Verbs {
		if Verbs[i].Name == name {
			return &Verbs[i]
		}
	}
	return nil
}
