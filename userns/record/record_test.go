package record

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var here = Here{MachineID: "6c61756e636841a5b6c7d8e9f0a1b2c3", Hostname: "desk"}

// zoe is the record that each case adds to.
const zoe = `{"userName":"zoe","uid":3100,"gid":3101,"homeDirectory":"/home/z","shell":"/bin/zsh"`

// with gives the record with more in it: behind the rest, or with a - before it.
func with(more string) []byte {
	if first, ok := strings.CutPrefix(more, "-"); ok {
		return []byte("{" + first + "," + zoe[1:] + "}")
	}
	return []byte(zoe + more + "}")
}

func TestParseUser(t *testing.T) {
	plain := User{Name: "zoe", UID: 3100, GID: 3101, HasUID: true, Home: "/home/z", Shell: "/bin/zsh"}
	for _, c := range []struct {
		more, privileged string
		change           func(u *User)
	}{
		{"", "", func(u *User) {}},
		{`,"foo":{"bar":1},"locked":true,"memberOf":["adm"],"realName":"Z"`, "", func(u *User) {}},
		{`,"shell":"/second"`, "", func(u *User) {}},
		{`,"disposition":"regular"`, "", func(u *User) { u.Disposition = "regular" }},
		{`,"disposition":"mine"`, "", func(u *User) {}},
		{`-"uid":"77"`, "", func(u *User) { u.UID, u.HasUID = 0, false }},
		{`-"gid":"77"`, "", func(u *User) { u.GID = 3100 }},
		{`-"homeDirectory":"/a:b"`, "", func(u *User) { u.Home = "/home/zoe" }},
		{`-"gid":null`, "", func(u *User) { u.GID = 3100 }},
		{`-"uid":null`, "", func(u *User) { u.UID, u.HasUID = 0, false }},
		{`-"homeDirectory":"z"`, "", func(u *User) { u.Home = "/home/zoe" }},
		{`-"homeDirectory":"/home/../z"`, "", func(u *User) { u.Home = "/home/zoe" }},
		{`-"shell":"zsh"`, "", func(u *User) { u.Shell = "" }},
		{`,"SHELL":"/bin/sh"`, "", func(u *User) {}},
		{`,"perMachine":[{"matchMachineId":"6c61756e-6368-41a5-b6c7-d8e9f0a1b2c3","shell":"/bin/here"}]`, "", func(u *User) { u.Shell = "/bin/here" }},
		{`,"perMachine":[{"matchMachineId":"7c61756e636841a5b6c7d8e9f0a1b2c3","shell":"/bin/here"}]`, "", func(u *User) {}},
		{`,"perMachine":[{"matchHostname":["x","desk"],"uid":7,"homeDirectory":"/d","userName":"other","disposition":"system","privileged":{"hashedPassword":["x"]}}]`, "", func(u *User) { u.UID = 7 }},
		{`,"perMachine":[{"matchNotHostname":"desk","shell":"/a"},{"matchNotMachineId":["6c61756e-6368-41a5-b6c7-d8e9f0a1b2c3"],"shell":"/b"}]`, "", func(u *User) {}},
		{`,"perMachine":[{"matchNotHostname":"tower","shell":"/a"},{"matchHostname":"desk","shell":"/b"}]`, "", func(u *User) { u.Shell = "/b" }},
		{`,"perMachine":[{"matchHostname":"tower","shell":"/bin/x"},{"shell":"/bin/y"}]`, "", func(u *User) {}},
		{`,"perMachine":[{"matchHostname":"desk","uid":4}],"binding":{"6c61756e636841a5b6c7d8e9f0a1b2c3":{"uid":5,"homeDirectory":"/b","shell":"/x"},"x":{"uid":6}}`, "",
			func(u *User) { u.Home, u.UID = "/b", 5 }},
		{`,"privileged":{"hashedPassword":["a","b"],"sshAuthorizedKeys":["k"],"passwordHint":"h"}`, "", func(u *User) { u.Passwords, u.Keys = []string{"a", "b"}, []string{"k"} }},
		{`,"privileged":{"hashedPassword":"a"}`, "", func(u *User) { u.Passwords = []string{"a"} }},
		{`,"privileged":{"hashedPassword":[]}`, "", func(u *User) {}},
		{`,"privileged":{"hashedPassword":["a"]}`, `{"privileged":{"hashedPassword":["b"]}}`, func(u *User) { u.Passwords = []string{"b"} }},
	} {
		want := plain
		c.change(&want)
		got, err := ParseUser("zoe", with(c.more), []byte(c.privileged), here)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s %s:\n got %+v, %v\nwant %+v", c.more, c.privileged, got, err, want)
		}
	}
	for _, more := range []string{`,"secret":{"password":["x"]}`, `-"uid":-1`, `-"uid":4294967295`, `-"gid":1.5`, `,"privileged":[]`, `,"perMachine":{}`,
		`,"binding":[]`, `,"privileged":{"hashedPassword":[1]}`, `,"privileged":{"hashedPassword":["a\tb"]}`, `,"privileged":{"sshAuthorizedKeys":["k\nk"]}`, `}x`} {
		if got, err := ParseUser("zoe", with(more), nil, here); err == nil {
			t.Errorf("%s: %+v, want an error", more, got)
		}
	}
	for _, text := range []string{"", "null", "[]", "{", `"x"`} {
		if _, err := ParseUser("zoe", []byte(text), nil, here); err == nil {
			t.Errorf("%q is a record", text)
		}
	}
	if _, err := ParseUser("zoe", []byte(zoe+"}"), []byte("x"), here); err == nil {
		t.Error("a privileged part that is no JSON is taken")
	}
	for _, text := range []string{zoe + "}", "{}", `{"userName":["joe"]}`, `{"USERNAME":"joe"}`} {
		if _, err := ParseUser("joe", []byte(text), nil, here); !errors.Is(err, ErrOther) {
			t.Errorf("%s is the record of joe: %v", text, err)
		}
	}
}

func TestParseGroup(t *testing.T) {
	g, err := ParseGroup([]byte(`{"groupName":"zoe","gid":3101,"disposition":"system","members":["a"]}`), here)
	if want := (Group{"zoe", 3101, "system"}); err != nil || g != want {
		t.Errorf("%+v, %v, want %+v", g, err, want)
	}
	for _, text := range []string{"{}", `{"gid":1}`, `{"groupName":"zoe"}`, `{"groupName":"zoe","gid":"1"}`} {
		if g, err := ParseGroup([]byte(text), here); err == nil {
			t.Errorf("%s: %+v, want an error", text, g)
		}
	}
}

func TestHashed(t *testing.T) {
	for _, s := range []string{"", "!", "!!", "$6$a$b", "!$6$a$b", "*LK*", "**", "abc"} {
		if !Hashed(s) {
			t.Errorf("%q is no password", s)
		}
	}
	for _, s := range []string{"*", "x", "!*", "!x", "!!x", "\xff"} {
		if Hashed(s) {
			t.Errorf("%q is a password", s)
		}
	}
}

// TestFiles: the text is systemd-nspawn's, to the byte. The rest is held to it by
// running both.
func TestFiles(t *testing.T) {
	b := Bound{Name: "joe", ID: 60514, Shell: "/bin/zsh", Groups: []string{"wheel"}, Disposition: "regular", GroupDisposition: "system",
		Passwords: []string{`$6$a"b\c<>&`}, Keys: []string{"ssh-ed25519 AAAA"}}
	want := []File{
		{Name: "joe.user", Text: `{"userName":"joe","uid":60514,"gid":60514,"disposition":"regular","homeDirectory":"/run/host/home/joe","service":"io.systemd.NSpawn","shell":"/bin/zsh","memberOf":["wheel"]}` + "\n"},
		{Name: "60514.user", Link: "joe.user"},
		{Name: "joe.user-privileged", Text: `{"privileged":{"hashedPassword":["$6$a\"b\\c<>&"],"sshAuthorizedKeys":["ssh-ed25519 AAAA"]}}` + "\n", Private: true},
		{Name: "60514.user-privileged", Link: "joe.user-privileged"},
		{Name: "joe.group", Text: `{"groupName":"joe","gid":60514,"disposition":"system","service":"io.systemd.NSpawn"}` + "\n"},
		{Name: "60514.group", Link: "joe.group"},
		{Name: "joe:wheel.membership", Text: "{}\n"},
	}
	got, err := b.Files()
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v\n got %+v\nwant %+v", err, got, want)
	}
	b = Bound{Name: "joe", ID: 60514}
	if got, err = b.Files(); err != nil || len(got) != 6 || got[2].Text != `{"privileged":{}}`+"\n" || !strings.HasSuffix(got[0].Text, `,"memberOf":[]}`+"\n") {
		t.Errorf("%+v, %v", got, err)
	}
}

// FuzzParseUser: what is taken from a record can be written into one, which says the
// same again.
func FuzzParseUser(f *testing.F) {
	f.Add([]byte(zoe+`,"disposition":"regular","privileged":{"hashedPassword":["a"],"sshAuthorizedKeys":["k"]}}`), []byte{})
	f.Add([]byte(zoe+`,"perMachine":[{"matchHostname":"desk","shell":"/x"}],"binding":{"6c61756e636841a5b6c7d8e9f0a1b2c3":{"uid":5}}}`), []byte(`{"privileged":{"hashedPassword":"\u00fc"}}`))
	f.Fuzz(func(t *testing.T, text, privileged []byte) {
		u, err := ParseUser("zoe", text, privileged, here)
		if err != nil {
			return
		}
		b := Bound{Name: u.Name, ID: FirstID, Shell: u.Shell, Disposition: u.Disposition, Passwords: u.Passwords, Keys: u.Keys}
		files, err := b.Files()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseUser("zoe", []byte(files[0].Text), []byte(files[2].Text), here)
		want := u
		want.UID, want.GID, want.HasUID, want.Home = FirstID, FirstID, true, b.HomeDir()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v\n got %+v\nwant %+v\nfrom %+v", err, got, want, files)
		}
	})
}
