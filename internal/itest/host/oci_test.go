package host

import (
	"testing"

	"launch/internal/itest/tree"
)

// TestScopes: launch-oci lets systemd make the cgroups, knows that of a
// container afterwards, and leaves nothing of it.
func TestScopes(t *testing.T) {
	h := Boot(t, tree.Suite)
	run(t, h, `mkdir -p /run/b/rootfs && cd /run/b && mount --rbind / rootfs && mount --make-rslave rootfs && launch-oci spec && sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"sleep","1000"/' config.json
sed -i '0,/"linux": {/s//"linux": { "cgroupsPath": "system.slice:oci:one", /' config.json
sed -i 's/"resources": {/"resources": { "unified": {"pids.max": "50"}, /; s/"hostname"/"annotations": {"org.systemd.property.TimeoutStopUSec": "uint64 7000000", "org.systemd.property.Description": "'"'"'a container'"'"'"}, "hostname"/' config.json
sed -i 's/"unified": {"pids.max": "50"}, //' config.json`)
	step := func(what, script, want string) {
		t.Helper()
		if got := run(t, h, "cd /run/b\n"+script); got != want {
			t.Errorf("%s: %q, want %q\n%s", what, got, want, h.Journal())
		}
	}
	step("run", "launch-oci --systemd-cgroup run -d one >/dev/null 2>&1 </dev/null && systemctl is-active oci-one.scope && systemctl show -p Slice,Delegate oci-one.scope", "active\nSlice=system.slice\nDelegate=yes")
	step("properties", "systemctl show -p TimeoutStopUSec,Description oci-one.scope", "TimeoutStopUSec=7s\nDescription=a container")
	step("cgroup", `sed -n 's/^0:://p' /proc/$(launch-oci state one | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')/cgroup`, "/system.slice/oci-one.scope")
	// Nobody tells the later verbs which driver it was.
	step("exec", `launch-oci exec one sh -c 'sed -n s/^0:://p /proc/self/cgroup'`, "/")
	step("pause", "launch-oci pause one && launch-oci state one | grep -c paused && launch-oci resume one && launch-oci state one | grep -c running", "1\n1")
	step("update", `echo '{"pids":{"limit":-1}}' | launch-oci update -r - one; launch-oci ps -f json one | tr -cd ',' | wc -c`, "0")
	step("reload", "systemctl daemon-reload && launch-oci exec one true && systemctl is-active oci-one.scope", "active")
	step("end", "launch-oci kill one KILL; until_ 'launch-oci state one | grep -q stopped'; launch-oci delete one; until_ '! systemctl is-active oci-one.scope'; systemctl show -p LoadState --value oci-one.scope; launch-oci list -q", "not-found")
	step("a slice that is made", `sed -i 's/system.slice:oci:one/a-b.slice:oci:two/' config.json; launch-oci --cgroup-manager systemd run -d two >/dev/null 2>&1 </dev/null; sed -n 's/^0:://p' /proc/$(launch-oci state two | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')/cgroup; launch-oci delete -f two`, "/a.slice/a-b.slice/oci-two.scope")
	step("bad names", `for p in a b:c 'x.slice' 'a/b.slice:c:d' '-.slice:x:y:z'; do sed "s|a-b.slice:oci:two|$p|" config.json >bad.json; launch-oci --systemd-cgroup run -f bad.json three >/dev/null 2>&1; echo $?; launch-oci list -q; done | sort -u`, "1")
	// Whoever has the name keeps it, and who called lives on.
	step("a slice", `sed 's|a-b.slice:oci:two|a.slice:oci:two.slice|' config.json >bad.json; launch-oci --systemd-cgroup run -f bad.json three 2>&1 </dev/null | sed 's/.*cgroupsPath//; s/: give.*//'; launch-oci list -q`, `\"a.slice:oci:two.slice\": systemd puts no processes into a slice`)
	step("a name that is taken", `launch-oci --systemd-cgroup run -d two >/dev/null 2>&1 </dev/null; launch-oci --systemd-cgroup run -d three 2>&1 </dev/null | sed 's/.*run failed: //'; launch-oci list -q; systemctl is-active oci-two.scope; launch-oci state two | grep -c running; launch-oci delete -f two`,
		`start unit oci-two.scope: there is a unit of that name already"`+"\ntwo\nactive\n1")
	step("systemctl stop", `launch-oci --systemd-cgroup run -d two >/dev/null 2>&1 </dev/null; systemctl stop oci-two.scope; until_ 'launch-oci state two | grep -q stopped'; launch-oci delete two; launch-oci list -q`, "")
}
