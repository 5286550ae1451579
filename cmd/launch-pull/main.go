// Command launch-pull gets images, and keeps them: it is what `launch pull`,
// `launch images` and `launch rmi` execute.
//
// It is a program of its own so that what speaks to networks and reads what
// anybody may have made is never part of the one that starts machines. What it
// unpacks, it unpacks in processes that are born into namespaces with nothing
// in them but the directory to unpack into (see unpack.go).
//
// Room: desk.
package main

import (
	"errors"
	"fmt"
	"os"

	"launch/internal/cli"
	_ "launch/internal/entry" // where it begins
	"launch/internal/sys"
	"launch/oci/store"
	"launch/settings"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if sys.Borrowed() {
		return fail(settings.Borrowed())
	}
	if len(args) == 0 {
		return fail(&settings.Error{What: "launch-pull is run by launch", Hint: "launch pull, launch images and launch rmi are the commands"})
	}
	verb, args := args[0], args[1:]
	if verb == unpackVerb {
		return unpack(args)
	}
	v := settings.FindVerb(verb)
	if v == nil {
		return fail(&settings.Error{What: fmt.Sprintf("launch-pull does not know %q", verb), Hint: "launch pull, launch images and launch rmi are the commands"})
	}
	told, words, err := cli.ParseVerb(v, args)
	if err != nil {
		return fail(err)
	}
	if told.Has("help") {
		cli.VerbUsage(os.Stdout, v)
		return 0
	}
	switch verb {
	case "pull":
		return pullAll(told, words)
	case "images":
		return images(told, words)
	case "rmi":
		return rmi(told, words)
	case "run":
		return pullAndRun(told, words, args)
	}
	return fail(fmt.Errorf("launch-pull does not know %q", verb))
}

func fail(err error) int {
	cli.Report(os.Stderr, err)
	return 1
}

// where gives the directory of the store.
func where() (string, error) { return store.Where(os.Getenv, os.Geteuid() == 0) }

// reference reads a name, as the command line has it.
func reference(word string) (store.Reference, error) {
	cwd, err := os.Getwd()
	if err != nil {
		cwd = "/"
	}
	r, err := store.ParseReference(word, cwd)
	if err != nil {
		return r, &settings.Error{What: err.Error(), Hint: "[REGISTRY/]NAME[:TAG][@DIGEST], oci:DIRECTORY, oci-archive:FILE or docker-archive:FILE"}
	}
	return r, nil
}

// pullAndRun is `launch run` of an image that wasn't there.
func pullAndRun(told cli.Told, words, args []string) int {
	if len(words) == 0 {
		return fail(&settings.Error{What: "no image was named", Hint: "launch run [OPTION…] IMAGE [COMMAND…]"})
	}
	if code := pullAll(told.Only("platform", "plain-http", "mirror", "quiet"), words[:1]); code != 0 {
		return code
	}
	self, err := os.Executable()
	if err == nil {
		err = sys.Exec(cli.Beside(self, "launch"), append([]string{"launch", "run", "--pull=never"}, args...), os.Environ())
	}
	return fail(fmt.Errorf("execute launch again: %w", err))
}

// images lists what the store has.
func images(told cli.Told, words []string) int {
	if len(words) > 0 {
		return fail(&settings.Error{What: "images takes no names", Value: words[0]})
	}
	dir, err := where()
	if err != nil {
		return fail(err)
	}
	list := []listed{}
	s, err := store.Look(dir)
	if err != nil && !errors.Is(err, store.ErrNone) {
		return fail(err)
	}
	if err == nil {
		defer s.Close()
		all, err := s.Images()
		if err != nil {
			return fail(err)
		}
		for _, i := range all {
			list = append(list, list1(s, i))
		}
	}
	return show(list, told.Has("json"))
}

// rmi takes images away.
func rmi(told cli.Told, words []string) int {
	if len(words) == 0 && !told.Has("machine") && !told.Has("unused") {
		return fail(&settings.Error{What: "no image was named", Hint: "launch rmi IMAGE…, launch rmi --machine=NAME, or launch rmi --unused"})
	}
	dir, err := where()
	if err != nil {
		return fail(err)
	}
	s, err := store.Look(dir)
	if errors.Is(err, store.ErrNone) && len(words) == 0 && !told.Has("machine") {
		return 0
	}
	if err != nil {
		return fail(&settings.Error{What: fmt.Sprintf("cannot remove anything from %s: %v", dir, err)})
	}
	defer s.Close()
	code := 0
	for _, word := range words {
		r, err := reference(word)
		if err == nil {
			err = s.Forget(r.String())
			if errors.Is(err, store.ErrNone) {
				err = &settings.Error{What: "there is no image " + r.String(), Hint: "launch images lists what there is"}
			}
		}
		if err != nil {
			code = fail(err)
		}
	}
	for _, name := range told.All("machine") {
		if err := s.RemoveMachine(name); err != nil {
			code = fail(&settings.Error{What: fmt.Sprintf("cannot remove what machine %q has changed: %v", name, err)})
		}
	}
	swept, err := s.Sweep()
	if err != nil {
		return fail(err)
	}
	if !told.Has("quiet") {
		for _, l := range swept.Layers {
			fmt.Println("removed layer", l)
		}
	}
	return code
}
