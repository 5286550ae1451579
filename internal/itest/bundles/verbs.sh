# verbs.sh NAME PROGRAM CASE…: runs the scripts of verbs.txt under a runtime. What comes out is a line "@CASE", and a
# line "FACT<tab>VALUE" for each fact of it.
rt=$1 program=$2
shift 2
mkdir -p /run/root /run/verbs
export rt program R="$program --root /run/rt"

# flat makes one line of what comes, without what is new each time.
flat() { sed -E -e 's/[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(Z|[+-][0-9:]+)/TIME/g' -e 's/"pid": ?[1-9][0-9]*/"pid": N/g' -e 's/"ociVersion": ?"[^"]*"/"ociVersion": V/g' | tr '\n\t' '; '; }
n=0
fact() { n=$((n + 1)) && printf '%s %s\t%s\n' $n "$1" "$2"; }
# s is a command whose exit status is looked at, o one whose output is, too, and w one whose error holds a word.
s() { timeout -k 5 20 $R "$@" >/run/verbs/out 2>/run/verbs/err </dev/null; fact "$*" $?; }
o() { timeout -k 5 20 $R "$@" >/run/verbs/out 2>/run/verbs/err </dev/null; fact "$*" "$? $(flat </run/verbs/out)"; }
w() { word=$1; shift; timeout -k 5 20 $R "$@" >/run/verbs/out 2>/run/verbs/err </dev/null; fact "$*" "$? $(cat /run/verbs/out /run/verbs/err | tr -d '\\' | grep -q -- "$word" && echo yes || echo no)"; }
q() { timeout -k 5 20 $R "$@" >/dev/null 2>&1 </dev/null; }
status() { $R state $1 2>/dev/null | sed -n 's/.*"status": *"\([a-z]*\)".*/\1/p'; }
pid() { $R state $1 2>/dev/null | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p'; }
is() { fact "status of $1" "$(status $1)"; }
until_() { for i in $(seq 200); do [ "$(status $1)" = $2 ] && return; sleep 0.05; done; fact "never $2" 1; }
mode() { stat -c %a "$1" 2>/dev/null || echo none; }

for c in "$@"; do
	mount -t tmpfs -o mode=755 layer /run/verbs
	mkdir /run/verbs/u /run/verbs/w /run/verbs/b
	mount -t overlay -o lowerdir=/run/given/tiny,upperdir=/run/verbs/u,workdir=/run/verbs/w root /run/root
	cp /run/given/verbs/$c.json /run/verbs/b/config.json
	echo "@$c"
	# A shell of its own, whose umask and directory are its own business.
	(cd /run/verbs/b && . /run/given/verbs/$c.sh) 2>&1
	for id in a b; do q delete --force $id; done
	umount -R /run/root || umount -l /run/root
	umount -l /run/verbs
done
