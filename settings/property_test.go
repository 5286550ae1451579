package settings

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

func TestProperty(t *testing.T) {
	pairs := func(p ...[2]string) [][2]string { return p }
	for text, want := range map[string]Property{
		"MemoryMax=1G":                      {"MemoryMax", uint64(1 << 30)},
		"MemoryMax=infinity":                {"MemoryMax", infinite},
		"MemoryMax=50%":                     {"MemoryMaxScale", uint32(1<<31 - 1)},
		"TasksMax=16384":                    {"TasksMax", uint64(16384)},
		"CPUQuota=150%":                     {"CPUQuotaPerSecUSec", uint64(1500000)},
		"CPUQuotaPeriodSec=10ms":            {"CPUQuotaPeriodUSec", uint64(10000)},
		"CPUWeight=idle":                    {"CPUWeight", uint64(0)},
		"AllowedCPUs=0-1,9":                 {"AllowedCPUs", []byte{3, 2}},
		"DeviceAllow=/dev/null":             {"DeviceAllow", pairs([2]string{"/dev/null", "rwm"})},
		"DeviceAllow=char-pts rw":           {"DeviceAllow", pairs([2]string{"char-pts", "rw"})},
		"DeviceAllow=":                      {"DeviceAllow", [][2]string{}},
		"DevicePolicy=auto":                 {"DevicePolicy", "auto"},
		"KillSignal=SIGRTMIN+3":             {"KillSignal", int32(37)},
		"TimeoutStopSec=2min":               {"TimeoutStopUSec", uint64(120e6)},
		"Delegate=no":                       {"Delegate", false},
		"Delegate=cpu memory":               {"DelegateControllers", []string{"cpu", "memory"}},
		"After=a.service b.service":         {"After", []string{"a.service", "b.service"}},
		"IOReadBandwidthMax=/dev/sda 5M":    {"IOReadBandwidthMax", [][]any{{"/dev/sda", uint64(5 << 20)}}},
		"IODeviceWeight=/dev/sda 100":       {"IODeviceWeight", [][]any{{"/dev/sda", uint64(100)}}},
		"IPAddressDeny=192.168.1.77/24 ::1": {"IPAddressDeny", [][]any{{int32(2), []byte{192, 168, 1, 0}, uint32(24)}, {int32(10), append(make([]byte, 15), 1), uint32(128)}}},
		"Description=a = b":                 {"Description", "a = b"},
	} {
		got, err := ParseProperty(text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %#v %v, want %#v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MemoryMax", "=1", "Exec=1", "MemoryMax=x", "MemoryMax=101%", "TasksMax=0", "TasksMax=-1", "CPUQuota=20", "CPUQuota=0%", "CPUWeight=0",
		"DeviceAllow=null", "DeviceAllow=/dev/null x", "KillSignal=FOO", "Delegate=\"", "IPAddressDeny=", "IPAddressDeny=1.2.3", "IPAddressDeny=1.2.3.4/33",
		"IODeviceWeight=sda 1", "IODeviceWeight=/dev/sda", "TimeoutStopSec=x", "TimeoutStop=1", "MemoryMaxSec=1", "SendSIGKILL=perhaps", "Description=\x00"} {
		if got, err := ParseProperty(text); err == nil {
			t.Errorf("%q: %#v", text, got)
		}
	}
}

func TestSlice(t *testing.T) {
	for text, want := range map[string]string{"machine": "machine.slice", "a-b.slice": "a-b.slice", "-": "-.slice", "": "", "-a": "", "a--b": "", "a/b": "", ".slice": "", "a-": "", "a.service": "", "a.scope.slice": "a.scope.slice", "a.b": "a.b.slice"} {
		got, err := parseSlice(Place{}, text)
		if (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%q: %v %v, want %q", text, got, err, want)
		}
	}
}

// FuzzPrefix holds addresses against net/netip.
func FuzzPrefix(f *testing.F) {
	for _, s := range []string{"1.2.3.4/7", "::", "fe80::1/64", "1::2.3.4.5", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "::1.2.3.4::", "01.2.3.4", "1::2::3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ip, bits, ok := parsePrefix(text)
		want, err := netip.ParsePrefix(text)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(text); err == nil && a.Zone() == "" {
				want, err = a.Prefix(a.BitLen())
			} else if err == nil {
				return
			}
		}
		if ok != (err == nil) {
			// Only what another reader takes, too, may be taken.
			if ok {
				t.Fatalf("%q: %v/%d, but %v", text, ip, bits, err)
			}
			t.Fatalf("%q is refused, but is %v", text, want)
		}
		if ok && (want.Bits() != bits || !slices.Equal(want.Masked().Addr().AsSlice(), ip)) {
			t.Fatalf("%q: %v/%d, want %v", text, ip, bits, want)
		}
	})
}
