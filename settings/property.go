package settings

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Property is a property of a unit as D-Bus has it: Value is a string, bool,
// int32, uint32, uint64, []byte, []string, [][2]string, or, for structures,
// [][]any.
type Property struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
}

// parseSlice reads the name of a slice; the ending may be left out.
func parseSlice(_ Place, text string) (any, error) {
	name := strings.TrimSuffix(text, ".slice")
	for _, c := range name {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.ContainsRune(`:-_.\@`, c)) {
			return nil, fmt.Errorf("%q is not the name of a slice: letters, digits and :-_.\\@", text)
		}
	}
	for _, kind := range []string{".service", ".scope", ".socket", ".target", ".mount", ".automount", ".swap", ".timer", ".path", ".device"} {
		if strings.HasSuffix(text, kind) {
			return nil, fmt.Errorf("%q is a unit of another kind than a slice", text)
		}
	}
	if name == "" || name != "-" && (name[0] == '-' || name[len(name)-1] == '-' || strings.Contains(name, "--")) || len(name) > 200 {
		return nil, fmt.Errorf("%q is not the name of a slice: a dash stands between two names", text)
	}
	return name + ".slice", nil
}

func parseProperty(_ Place, text string) (any, error) {
	_, err := ParseProperty(text)
	return text, err
}

// How the value of a property is read.
type propertyKind uint8

const (
	propBool propertyKind = iota
	propString
	propWords   // as
	propSize    // t: bytes, a share of the memory as NAMEScale, infinity
	propTasks   // as propSize, but a plain number
	propWeight  // t
	propQuota   // t: CPUQuota=20%
	propSpan    // t: microseconds, as NAMEUSec
	propSet     // ay: processors or memory nodes
	propDevice  // a(ss)
	propAddress // a(iayu)
	propRate    // a(st): a device and bytes, or a number of operations
	propRatio   // a(st): a device and a weight
	propSignal  // i
	propOn      // b, or a list of controllers as NAMEControllers
)

// properties are those of scopes, and what units of every kind have.
var properties = [...]struct {
	kind  propertyKind
	names string
}{
	{propBool, "CPUAccounting MemoryAccounting IOAccounting BlockIOAccounting TasksAccounting IPAccounting SendSIGHUP SendSIGKILL " +
		"DefaultDependencies IgnoreOnIsolate StopWhenUnneeded RefuseManualStart RefuseManualStop CoredumpReceive MemoryZSwapWriteback"},
	{propString, "Description Slice DevicePolicy KillMode CollectMode OOMPolicy ManagedOOMSwap ManagedOOMMemoryPressure ManagedOOMPreference " +
		"MemoryPressureWatch FailureAction SuccessAction JobTimeoutAction"},
	{propWords, "After Before Wants Requires Requisite BindsTo PartOf Upholds Conflicts Documentation RequiresMountsFor DisableControllers"},
	{propSize, "MemoryMin MemoryLow MemoryHigh MemoryMax MemorySwapMax MemoryZSwapMax MemoryLimit DefaultMemoryLow DefaultMemoryMin " +
		"StartupMemoryLow StartupMemoryHigh StartupMemoryMax StartupMemorySwapMax"},
	{propTasks, "TasksMax"},
	{propWeight, "CPUWeight StartupCPUWeight IOWeight StartupIOWeight CPUShares StartupCPUShares BlockIOWeight StartupBlockIOWeight"},
	{propQuota, "CPUQuota"},
	{propSpan, "CPUQuotaPeriod TimeoutStop RuntimeMax RuntimeRandomizedExtra JobTimeout JobRunningTimeout MemoryPressureThreshold"},
	{propSet, "AllowedCPUs StartupAllowedCPUs AllowedMemoryNodes StartupAllowedMemoryNodes"},
	{propDevice, "DeviceAllow"},
	{propAddress, "IPAddressAllow IPAddressDeny"},
	{propRate, "IOReadBandwidthMax IOWriteBandwidthMax IOReadIOPSMax IOWriteIOPSMax"},
	{propRatio, "IODeviceWeight"},
	{propSignal, "KillSignal RestartKillSignal FinalKillSignal WatchdogSignal"},
	{propOn, "Delegate"},
}

func kindOf(name string) (propertyKind, bool) {
	short, span := strings.CutSuffix(name, "Sec")
	for _, p := range properties {
		if span != (p.kind == propSpan) {
			continue
		}
		for n := range strings.FieldsSeq(p.names) {
			if n == short {
				return p.kind, true
			}
		}
	}
	return 0, false
}

// infinite is no limit.
const infinite = ^uint64(0)

// ParseProperty reads NAME=VALUE as systemctl set-property does.
func ParseProperty(text string) (Property, error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return Property{}, fmt.Errorf("%q is not like NAME=VALUE", text)
	}
	kind, ok := kindOf(name)
	if !ok {
		return Property{}, fmt.Errorf("%q is no property of a scope that launch knows", name)
	}
	if strings.IndexByte(value, 0) >= 0 {
		return Property{}, errors.New("a property can't have a NUL byte")
	}
	p, err := readProperty(kind, name, value)
	if err != nil {
		return Property{}, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

func readProperty(kind propertyKind, name, value string) (Property, error) {
	switch kind {
	case propBool:
		b, err := ParseBool(value)
		return Property{name, b}, err
	case propString:
		return Property{name, value}, nil
	case propWords:
		words, err := SplitWords(value)
		return Property{name, words}, err
	case propOn:
		if b, err := ParseBool(value); err == nil {
			return Property{name, b}, nil
		}
		words, err := SplitWords(value)
		return Property{name + "Controllers", words}, err
	case propSize, propTasks:
		if value == "" || value == "infinity" {
			return Property{name, infinite}, nil
		}
		if part, ok := strings.CutSuffix(value, "%"); ok {
			f, err := strconv.ParseFloat(part, 64)
			if err != nil || f < 0 || f > 100 {
				return Property{}, fmt.Errorf("%q is not a share between 0%% and 100%%", value)
			}
			return Property{name + "Scale", uint32(f / 100 * (1<<32 - 1))}, nil
		}
		if kind == propTasks {
			n, err := number(value, 1, infinite)
			return Property{name, n}, err
		}
		n, err := ParseSize(value)
		return Property{name, n}, err
	case propWeight:
		if value == "idle" && strings.HasSuffix(name, "CPUWeight") {
			return Property{name, uint64(0)}, nil
		}
		if value == "" {
			return Property{name, infinite}, nil
		}
		n, err := number(value, 1, 1<<18)
		return Property{name, n}, err
	case propQuota:
		if value == "" {
			return Property{"CPUQuotaPerSecUSec", infinite}, nil
		}
		f, err := strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64)
		if err != nil || f <= 0 || f > 1e9 || !strings.HasSuffix(value, "%") {
			return Property{}, fmt.Errorf("%q is not a share of a processor, such as 20%% or 150%%", value)
		}
		return Property{"CPUQuotaPerSecUSec", uint64(f * 10000)}, nil
	case propSpan:
		name = strings.TrimSuffix(name, "Sec") + "USec"
		if value == "" || value == "infinity" {
			return Property{name, infinite}, nil
		}
		n, err := parseSpan(value, 1e6)
		return Property{name, n}, err
	case propSet:
		c, err := readCPUs(value)
		bits := []byte{}
		for _, n := range c {
			for len(bits) <= n/8 {
				bits = append(bits, 0)
			}
			bits[n/8] |= 1 << (n % 8)
		}
		return Property{name, bits}, err
	case propDevice:
		device, rights, _ := strings.Cut(value, " ")
		rights = strings.TrimSpace(rights)
		if rights == "" {
			rights = "rwm"
		}
		if device == "" {
			return Property{name, [][2]string{}}, nil
		}
		if strings.Trim(rights, "rwm") != "" {
			return Property{}, fmt.Errorf("%q is not made of r, w and m", rights)
		}
		if !strings.HasPrefix(device, "/") && !strings.HasPrefix(device, "char-") && !strings.HasPrefix(device, "block-") {
			return Property{}, fmt.Errorf("%q is neither a path, nor char-NAME, nor block-NAME", device)
		}
		return Property{name, [][2]string{{device, rights}}}, nil
	case propAddress:
		list, err := addresses(value)
		return Property{name, list}, err
	case propRate, propRatio:
		device, rest, ok := strings.Cut(value, " ")
		if !ok || !strings.HasPrefix(device, "/") {
			return Property{}, fmt.Errorf("%q is not like /dev/NAME NUMBER", value)
		}
		rest = strings.TrimSpace(rest)
		n, err := infinite, error(nil)
		switch {
		case rest == "infinity" && kind == propRate:
		case kind == propRate:
			n, err = ParseSize(rest)
		default:
			n, err = number(rest, 1, 10000)
		}
		return Property{name, [][]any{{device, n}}}, err
	case propSignal:
		n, err := ParseSignal(value)
		return Property{name, int32(n)}, err
	}
	return Property{}, errors.New("can't be set")
}

func number(text string, from, to uint64) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < from || n > to {
		return 0, fmt.Errorf("%q is not a number between %d and %d", text, from, to)
	}
	return n, nil
}

// addresses reads a list of addresses, with the length of a prefix or without,
// and the names that systemd has for some.
func addresses(text string) ([][]any, error) {
	words, err := SplitWords(text)
	if err != nil {
		return nil, err
	}
	var list [][]any
	for _, w := range words {
		named := []string{w}
		switch w {
		case "any":
			named = []string{"0.0.0.0/0", "::/0"}
		case "localhost":
			named = []string{"127.0.0.0/8", "::1/128"}
		case "link-local":
			named = []string{"169.254.0.0/16", "fe80::/64"}
		case "multicast":
			named = []string{"224.0.0.0/4", "ff00::/8"}
		}
		for _, n := range named {
			ip, bits, ok := parsePrefix(n)
			if !ok {
				return nil, fmt.Errorf("%q is no address: an IPv4 or IPv6 address, with /BITS or without, any, localhost, link-local or multicast", w)
			}
			family := int32(2) // AF_INET
			if len(ip) == 16 {
				family = 10 // AF_INET6
			}
			list = append(list, []any{family, ip, uint32(bits)})
		}
	}
	if list == nil {
		return nil, errors.New("an empty list takes nothing back here: leave the property out")
	}
	return list, nil
}

// parsePrefix reads ADDRESS or ADDRESS/BITS and clears what is behind the
// prefix. net/netip would do it, but does work before main in every start.
func parsePrefix(text string) (ip []byte, bits int, ok bool) {
	addr, length, has := strings.Cut(text, "/")
	if strings.Contains(addr, ":") {
		ip, ok = parseIPv6(addr)
	} else {
		ip, ok = parseIPv4(addr)
	}
	bits = 8 * len(ip)
	if has && ok {
		n, err := number(length, 0, uint64(bits))
		bits, ok = int(n), err == nil && (length == "0" || length[0] != '0')
	}
	for i := range ip {
		ip[i] &= ^byte(0) << min(8, max(0, 8*(i+1)-bits))
	}
	return ip, bits, ok
}

func parseIPv4(text string) (ip []byte, ok bool) {
	for part := range strings.SplitSeq(text, ".") {
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil || len(part) > 1 && part[0] == '0' {
			return nil, false
		}
		ip = append(ip, byte(n))
	}
	return ip, len(ip) == 4
}

func parseIPv6(text string) (ip []byte, ok bool) {
	groups := func(text string) (b []byte, ok bool) {
		if text == "" {
			return nil, true
		}
		parts := strings.Split(text, ":")
		for i, part := range parts {
			if i == len(parts)-1 && strings.Contains(part, ".") {
				four, ok := parseIPv4(part)
				return append(b, four...), ok
			}
			n, err := strconv.ParseUint(part, 16, 16)
			if err != nil || len(part) > 4 {
				return nil, false
			}
			b = append(b, byte(n>>8), byte(n))
		}
		return b, true
	}
	left, right, gap := strings.Cut(text, "::")
	head, ok1 := groups(left)
	tail, ok2 := groups(right)
	if !ok1 || !ok2 || !gap && len(head) != 16 || gap && (len(head)+len(tail) > 14 || strings.Contains(left, ".")) {
		return nil, false
	}
	ip = append(head, make([]byte, 16-len(head)-len(tail))...)
	return append(ip, tail...), true
}
