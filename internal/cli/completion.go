package cli

import (
	"fmt"
	"slices"
	"strings"

	"launch/settings"
)

// Shell is one for which there is a completion: a static file, written from the
// option table.
type Shell struct {
	Name string
	// File is what the shell wants the file to be called, Dir where it looks
	// for it below /usr/share.
	File, Dir  string
	Completion func() string
}

// Shells are those that are known.
var Shells = [...]Shell{
	{"bash", "launch", "bash-completion/completions", bashCompletion},
	{"zsh", "_launch", "zsh/site-functions", zshCompletion},
	{"fish", "launch.fish", "fish/vendor_completions.d", fishCompletion},
}

// kind is what an option's argument is, as far as a shell can help with it.
type kind uint8

const (
	noArgument kind = iota
	anything
	words       // one of a list
	wordList    // several of a list, with commas
	directories // of the host
	paths       // of the host
	machines
	variables
)

func argument(o *settings.Option) kind {
	switch {
	case o.Arg == settings.NoArg || o.Arg == settings.LooseArg:
		return noArgument
	case o.Name == "directory" || o.Name == "mstack":
		return directories
	case o.Name == "machine":
		return machines
	case o.Name == "setenv":
		return variables
	case o.Name == "image" || o.Name == "verity-data" || o.Name == "forward-journal", o.Topic == settings.TopicMounts && (strings.HasPrefix(o.Placeholder, "SOURCE") || strings.HasPrefix(o.Placeholder, "LOWER")):
		return paths
	case len(choices(o)) == 0:
		return anything
	case o.Repeat && !strings.Contains(o.Placeholder, "="):
		return wordList
	}
	return words
}

// choices are the words that an option may be told; forms of words, such as
// START[:SIZE], are left out.
func choices(o *settings.Option) []string {
	if o.Placeholder == "BOOL" {
		return []string{"yes", "no"}
	}
	var list []string
	sign := ""
	if strings.HasPrefix(o.Placeholder, "NAME=") {
		sign = "=" // NAME is one of the values
	}
	for _, v := range o.Values() {
		if !strings.ContainsAny(v, "[…") {
			list = append(list, v+sign)
		}
	}
	return list
}

// offered are the rows that a shell offers: those of --help.
func offered() []*settings.Option {
	var list []*settings.Option
	for i := range settings.Options {
		if o := &settings.Options[i]; !o.Later && o.Topic != "" && (o.Flag != "" || o.Short != 0) {
			list = append(list, o)
		}
	}
	return list
}

const notice = "# Written by `go generate ./man` from the option table; changes here are lost.\n"

// machineNames is shell code (for all three) that prints the names of trees and of
// machines that run. Nobody but root can list the latter.
func machineNames() string {
	return "command ls -1 " + strings.Join(settings.ImageDirs[:], " ") + " /run/launch 2>/dev/null | command grep -v -e '^/' -e '^$' -e '[.]raw$' -e '[.]nspawn$' | command sort -u"
}

// spellings are the words that stand for the row: `-D`, `--directory`.
func spellings(o *settings.Option) []string {
	var s []string
	if o.Short != 0 {
		s = append(s, "-"+string([]byte{o.Short}))
	}
	if o.Flag != "" {
		s = append(s, "--"+o.Flag)
	}
	return s
}

func bashCompletion() string {
	var b, cases strings.Builder
	var long, short, needing, clustered []string
	for _, o := range offered() {
		for _, s := range spellings(o) {
			switch {
			case len(s) == 2:
				short = append(short, s)
				if o.Arg == settings.RequiredArg {
					clustered = append(clustered, "*"+s[1:])
				}
			case o.Arg == settings.RequiredArg:
				long = append(long, s+"=")
			case o.Arg == settings.OptionalArg:
				long = append(long, s, s+"=")
			default:
				long = append(long, s)
			}
			if o.Arg == settings.RequiredArg {
				needing = append(needing, s)
			}
		}
		what := ""
		switch argument(o) {
		case words:
			what = fmt.Sprintf("_launch_words '%s'", strings.Join(choices(o), " "))
		case wordList:
			what = fmt.Sprintf("_launch_list '%s'", strings.Join(choices(o), " "))
		case directories:
			what = "_launch_paths -d"
		case paths:
			what = "_launch_paths -f"
		case machines:
			what = `_launch_words "$(_launch_machines)"`
		case variables:
			what = `_launch_words "$(compgen -e)"`
		default:
			continue
		}
		fmt.Fprintf(&cases, "\t%s) %s ;;\n", strings.Join(spellings(o), "|"), what)
	}
	var verbs strings.Builder
	for i := range settings.Verbs {
		v := &settings.Verbs[i]
		var own []string
		for j := range v.Options {
			o := &v.Options[j]
			for _, s := range spellings(o) {
				if o.Arg == settings.RequiredArg {
					if !slices.Contains(needing, s) {
						needing = append(needing, s)
					}
					if len(s) > 2 {
						s += "="
					}
				}
				own = append(own, s)
			}
			if o.Enum != nil {
				fmt.Fprintf(&cases, "\t%s) _launch_words '%s' ;;\n", strings.Join(spellings(o), "|"), strings.Join(o.Enum, " "))
			}
		}
		only := "only=yes"
		if v.Start {
			only = ""
		}
		fmt.Fprintf(&verbs, "\t%s) first=2 own='%s' %s ;;\n", v.Name, strings.Join(own, " "), only)
	}
	b.WriteString("# bash completion for launch                              -*- shell-script -*-\n" + notice)
	b.WriteString(`
_launch_machines() {
	` + machineNames() + `
}

_launch_images() {
	command launch images 2>/dev/null | command sed -e 1d -e 's/ .*//'
}

# The functions below put whole values into "found"; $value is what was typed.
_launch_words() {
	mapfile -t found < <(compgen -W "$1" -- "$value")
}

_launch_list() {
	local before=
	[[ $value == *,* ]] && before=${value%,*},
	mapfile -t found < <(compgen -P "$before" -W "$1" -- "${value##*,}")
}

# Paths may have a word before them (/source:/target) and a sign (+ or -).
_launch_paths() {
	local before= path=$value i
	if [[ $1 == -f && $path == *:* ]]; then
		before=${path%:*}:
		path=${path##*:}
	fi
	if [[ $1 == -f && $path == [+-]* ]]; then
		before+=${path:0:1}
		path=${path:1}
	fi
	mapfile -t found < <(compgen "$1" -- "$path")
	for i in "${!found[@]}"; do
		[[ -d ${found[i]} ]] && found[i]+=/
		found[i]=$before${found[i]}
	done
	compopt -o filenames -o nospace 2>/dev/null
}

_launch_value() {
	case $1 in
` + cases.String() + `	esac
}

_launch() {
	local word=${COMP_LINE:0:COMP_POINT} value= option= i
	local first=1 own= only=
	local -a found=() typed
	word=${word##*[[:space:]]}

	# What comes behind the first word that is no option is for the machine.
	# Bash parts words at = and : too, so the line is looked at as it is.
	read -ra typed <<<"${COMP_LINE:0:COMP_POINT}"
	[[ -n $word ]] && unset 'typed[-1]'
	case ${typed[1]-} in
` + verbs.String() + `	esac
	for ((i = first; i < ${#typed[@]}; i++)); do
		if [[ -n $option ]]; then
			option=
			continue
		fi
		case ${typed[i]} in
		--) return 0 ;;
		` + strings.Join(needing, "|") + `) option=${typed[i]} ;;
		--*) ;;
		` + strings.ReplaceAll(strings.Join(clustered, "|"), "*", "-*") + `) option=-${typed[i]: -1} ;;
		-?*) ;;
		*) [[ -n $only ]] || return 0 ;;
		esac
	done

	if [[ -n $option ]]; then
		value=$word
		_launch_value "$option"
	elif [[ $word == --*=* ]]; then
		value=${word#*=}
		_launch_value "${word%%=*}"
		found=("${found[@]/#/${word%%=*}=}")
	elif [[ $word == -* ]]; then
		local all='` + strings.Join(append(short, long...), " ") + `'
		[[ -n $only ]] && all=
		mapfile -t found < <(compgen -W "$own $all" -- "$word")
	elif [[ $first == 2 ]]; then
		mapfile -t found < <(compgen -W "$(_launch_images)" -- "$word")
	elif [[ ${#typed[@]} == 1 ]]; then
		mapfile -t found < <(compgen -W '` + strings.Join(verbNames(), " ") + `' -- "$word")
	fi
	[[ ${#found[@]} == 1 && ${found[0]} == *= ]] && compopt -o nospace 2>/dev/null

	# Bash wants no more than the part behind the last = or :.
	local cut=${COMP_WORDS[COMP_CWORD]}
	[[ $cut == [=:] ]] && cut=
	cut=${word%"$cut"}
	COMPREPLY=("${found[@]#"$cut"}")
}

complete -o default -F _launch launch
`)
	return b.String()
}

// verbNames are the first words that are verbs.
func verbNames() []string {
	var names []string
	for i := range settings.Verbs {
		names = append(names, settings.Verbs[i].Name)
	}
	return names
}

// quote writes text for a shell, in single quotes.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func zshCompletion() string {
	var b strings.Builder
	b.WriteString("#compdef launch\n" + notice + `
_launch_machines() {
	local -a names
	names=(${(f)"$(` + machineNames() + `)"})
	_wanted machines expl machine compadd -a names
}

_launch_paths() {
	compset -P '*:'
	compset -P '[+-]'
	_files
}

_launch_images() {
	local -a names
	names=(${(f)"$(command launch images 2>/dev/null | command sed -e 1d -e 's/ .*//')"})
	_wanted images expl image compadd -a names
}

local -a own
if (( CURRENT > 2 )); then
	case $words[2] in
`)
	for i := range settings.Verbs {
		v := &settings.Verbs[i]
		fmt.Fprintf(&b, "\t%s)\n\t\twords=($words[1] $words[3,-1])\n\t\t(( CURRENT-- ))\n\t\town=( \\\n", v.Name)
		for j := range v.Options {
			zshSpecs(&b, &v.Options[j])
		}
		b.WriteString("\t\t)\n")
		if v.Start {
			b.WriteString("\t\town+=('(-)1:image:_launch_images')\n")
		} else {
			b.WriteString("\t\t_arguments -s -S $own '*:image:_launch_images'\n\t\treturn\n")
		}
		b.WriteString("\t\t;;\n")
	}
	b.WriteString(`	esac
fi
(( $#own )) || own=('(-)1:command:(` + strings.Join(verbNames(), " ") + `)')

_arguments -s -S $own \
`)
	for _, o := range offered() {
		zshSpecs(&b, o)
	}
	b.WriteString("\t'*:argument:_files'\n")
	return b.String()
}

// zshSpecs writes what _arguments is told of an option.
func zshSpecs(b *strings.Builder, o *settings.Option) {
	names := spellings(o)
	help := strings.NewReplacer("[", "(", "]", ")", ":", `\:`).Replace(o.Help)
	action := ""
	message := strings.ToLower(strings.NewReplacer("[", "", "]", "", ":", " ", "…", "").Replace(o.Placeholder))
	switch argument(o) {
	case anything:
		action = ":" + message + ": "
	case words:
		action = ":" + message + ":(" + strings.Join(choices(o), " ") + ")"
	case wordList:
		action = ":" + message + ":_sequence compadd - " + strings.Join(choices(o), " ")
	case directories:
		action = ":" + message + ":_directories"
	case paths:
		action = ":" + message + ":_launch_paths"
	case machines:
		action = ":" + message + ":_launch_machines"
	case variables:
		action = ":" + message + ":_parameters -g '*export*'"
	}
	for _, n := range names {
		spec := n
		switch {
		case o.Arg == settings.RequiredArg && len(n) == 2:
			spec += "+"
		case o.Arg == settings.RequiredArg:
			spec += "="
		case o.Arg == settings.OptionalArg:
			spec += "=-"
		}
		said := action
		if o.Arg == settings.OptionalArg {
			said = ":" + action
		}
		before := "(" + strings.Join(names, " ") + ")"
		if o.Repeat {
			before = "*"
		}
		b.WriteString("\t" + quote(before+spec+"["+help+"]"+said) + " \\\n")
	}
}

func fishCompletion() string {
	var b strings.Builder
	b.WriteString("# fish completion for launch\n" + notice + `
function __launch_machines
	` + machineNames() + `
end

# Nothing is offered any more once the command has begun.
function __launch_options
	set -l words (commandline -opc)
	set -e words[1]
	test "$words[1]" = run; and set -e words[1]
	set -l value 0
	for word in $words
		if test $value = 1
			set value 0
			continue
		end
		switch $word
			case --
				return 1
`)
	var needing []string
	for _, o := range offered() {
		if o.Arg == settings.RequiredArg {
			for _, s := range spellings(o) {
				if len(s) == 2 {
					s = "'-*" + s[1:] + "'"
					if strings.HasPrefix(s, "'-*-") {
						continue
					}
				}
				needing = append(needing, s)
			}
		}
	}
	var long, short []string
	for _, n := range needing {
		if strings.HasPrefix(n, "--") {
			long = append(long, n)
		} else {
			short = append(short, n)
		}
	}
	b.WriteString("\t\t\tcase " + strings.Join(long, " ") + "\n\t\t\t\tset value 1\n\t\t\tcase '--*'\n\t\t\tcase " + strings.Join(short, " ") +
		"\n\t\t\t\tset value 1\n\t\t\tcase '-*'\n\t\t\tcase '*'\n\t\t\t\treturn 1\n\t\tend\n\tend\n\treturn 0\nend\n\n")
	b.WriteString(`function __launch_verb
	set -l words (commandline -opc)
	test "$words[2]" = $argv[1]
end

function __launch_first
	test (count (commandline -opc)) = 1
end

function __launch_images
	command launch images 2>/dev/null | command sed -e 1d -e 's/ .*//'
end

`)
	b.WriteString("complete -c launch -n __launch_options -f\n")
	for i := range settings.Verbs {
		v := &settings.Verbs[i]
		fmt.Fprintf(&b, "complete -c launch -n __launch_first -f -a %s -d %s\n", v.Name, quote(v.Help))
		if v.Words != "" {
			fmt.Fprintf(&b, "complete -c launch -n '__launch_verb %s' -f -a '(__launch_images)'\n", v.Name)
		}
		for j := range v.Options {
			o := &v.Options[j]
			fmt.Fprintf(&b, "complete -c launch -n '__launch_verb %s' -f", v.Name)
			if o.Short != 0 {
				b.WriteString(" -s " + string([]byte{o.Short}))
			}
			b.WriteString(" -l " + o.Flag)
			if o.Arg == settings.RequiredArg {
				b.WriteString(" -r")
			}
			if o.Enum != nil {
				b.WriteString(" -a " + quote(strings.Join(o.Enum, " ")))
			}
			b.WriteString(" -d " + quote(o.Help) + "\n")
		}
	}
	for _, o := range offered() {
		b.WriteString("complete -c launch -n __launch_options")
		if o.Short != 0 {
			b.WriteString(" -s " + string([]byte{o.Short}))
		}
		if o.Flag != "" {
			b.WriteString(" -l " + o.Flag)
		}
		if o.Arg == settings.RequiredArg {
			b.WriteString(" -r")
		}
		files := false
		list := ""
		switch argument(o) {
		case words:
			list = strings.Join(choices(o), " ")
		case wordList:
			list = "(__fish_append , " + strings.Join(choices(o), " ") + ")"
		case directories:
			list = "(__fish_complete_directories)"
		case paths:
			files = true
		case machines:
			list = "(__launch_machines)"
		case variables:
			list = "(set --names --export)"
		}
		if !files {
			b.WriteString(" -f")
		}
		if list != "" {
			b.WriteString(" -a " + quote(list))
		}
		b.WriteString(" -d " + quote(o.Help) + "\n")
	}
	return b.String()
}
