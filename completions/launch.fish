# fish completion for launch
# Written by `go generate ./man` from the option table; changes here are lost.

function __launch_machines
	command ls -1 /etc/machines /run/machines /var/lib/machines /var/lib/container /usr/local/lib/machines /usr/lib/machines /run/launch 2>/dev/null | command grep -v -e '^/' -e '^$' -e '[.]raw$' -e '[.]nspawn$' | command sort -u
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
			case --directory --image --mstack --image-policy --root-hash --root-hash-sig --verity-data --template --mounts --oci-bundle --pivot-root --profile --join --machine --chdir --setenv --uid --kill-signal --hostname --uuid --personality --suppress-sync --private-users-ownership --network-veth-extra --network-bridge --network-zone --network-macvlan --network-ipvlan --network-interface --network-namespace-path --port --capability --drop-capability --ambient-capability --no-new-privileges --system-call-filter --restrict-address-families --selinux-context --selinux-apifs-context --rlimit --oom-score-adjust --cpu-affinity --bind --bind-ro --tmpfs --overlay --overlay-ro --inaccessible --bind-user --bind-user-shell --bind-user-group --resolv-conf --timezone --link-journal --forward-journal --forward-journal-max-use --forward-journal-keep-free --forward-journal-max-file-size --forward-journal-max-files --set-credential --load-credential --console --register --notify-ready --slice --property --settings --background
				set value 1
			case '--*'
			case '-*D' '-*i' '-*M' '-*E' '-*u' '-*p' '-*Z' '-*L' '-*S'
				set value 1
			case '-*'
			case '*'
				return 1
		end
	end
	return 0
end

function __launch_verb
	set -l words (commandline -opc)
	test "$words[2]" = $argv[1]
end

function __launch_first
	test (count (commandline -opc)) = 1
end

function __launch_images
	command launch images 2>/dev/null | command sed -e 1d -e 's/ .*//'
end

complete -c launch -n __launch_options -f
complete -c launch -n __launch_first -f -a pull -d 'Get images from a registry, a directory or an archive'
complete -c launch -n '__launch_verb pull' -f -a '(__launch_images)'
complete -c launch -n '__launch_verb pull' -f -l platform -r -d 'Which of several images; the host'\''s by default'
complete -c launch -n '__launch_verb pull' -f -l plain-http -r -d 'A registry that speaks without encryption'
complete -c launch -n '__launch_verb pull' -f -l mirror -r -d 'Where to look before a registry'
complete -c launch -n '__launch_verb pull' -f -l max-size -r -d 'How much a layer may expand to; 64G by default'
complete -c launch -n '__launch_verb pull' -f -l device-nodes -d 'Make the device nodes that are in the image'
complete -c launch -n '__launch_verb pull' -f -l json -d 'Write a line of JSON for each event'
complete -c launch -n '__launch_verb pull' -f -s q -l quiet -d 'No messages but errors'
complete -c launch -n '__launch_verb pull' -f -s h -l help -d 'Show this text'
complete -c launch -n __launch_first -f -a run -d 'Start a machine from an image'
complete -c launch -n '__launch_verb run' -f -a '(__launch_images)'
complete -c launch -n '__launch_verb run' -f -l name -r -d 'Name of the machine, which is kept for the next run'
complete -c launch -n '__launch_verb run' -f -l rm -d 'Remove at the end what the machine has changed'
complete -c launch -n '__launch_verb run' -f -s d -l detach -d 'Go on in the background, once the machine runs'
complete -c launch -n '__launch_verb run' -f -l entrypoint -r -d 'Program to run instead of the image'\''s entry point'
complete -c launch -n '__launch_verb run' -f -l pull -r -a 'missing always never' -d 'When to get the image first; missing by default'
complete -c launch -n '__launch_verb run' -f -l network -r -a 'private host' -d 'A network of its own, loopback only, or the host'\''s'
complete -c launch -n '__launch_verb run' -f -l platform -r -d 'Which of several images; the host'\''s by default'
complete -c launch -n '__launch_verb run' -f -l plain-http -r -d 'A registry that speaks without encryption'
complete -c launch -n '__launch_verb run' -f -l mirror -r -d 'Where to look before a registry'
complete -c launch -n __launch_first -f -a images -d 'List the images that are there'
complete -c launch -n '__launch_verb images' -f -l json -d 'Write JSON'
complete -c launch -n '__launch_verb images' -f -s h -l help -d 'Show this text'
complete -c launch -n __launch_first -f -a rmi -d 'Remove images, and the layers that nobody needs any more'
complete -c launch -n '__launch_verb rmi' -f -a '(__launch_images)'
complete -c launch -n '__launch_verb rmi' -f -s M -l machine -r -d 'Remove what this machine has changed'
complete -c launch -n '__launch_verb rmi' -f -l unused -d 'Remove only layers that nobody needs'
complete -c launch -n '__launch_verb rmi' -f -s q -l quiet -d 'No messages but errors'
complete -c launch -n '__launch_verb rmi' -f -s h -l help -d 'Show this text'
complete -c launch -n __launch_options -s D -l directory -r -f -a '(__fish_complete_directories)' -d 'Root directory of the machine'
complete -c launch -n __launch_options -s i -l image -r -d 'Disk image that the root is in: a file or a block device'
complete -c launch -n __launch_options -l mstack -r -f -a '(__fish_complete_directories)' -d 'Directory of layers and mounts that the root is made of'
complete -c launch -n __launch_options -l image-policy -r -f -d 'What the partitions of a disk image may be'
complete -c launch -n __launch_options -l root-hash -r -f -d 'Verity hash of a disk image'\''s root, which is refused so far'
complete -c launch -n __launch_options -l root-hash-sig -r -f -d 'Signature of the hash, a file or base64:DATA; refused so far'
complete -c launch -n __launch_options -l verity-data -r -d 'File with the hashes of a disk image; refused so far'
complete -c launch -n __launch_options -l template -r -f -d 'Tree to copy if the root directory is missing'
complete -c launch -n __launch_options -l mounts -r -f -d 'Bring back mounts that launch mounts save wrote'
complete -c launch -n __launch_options -l oci-bundle -r -f -d 'OCI bundle to run, with its config.json'
complete -c launch -n __launch_options -s x -l ephemeral -f -d 'Run on a copy of the root, which is removed at the end'
complete -c launch -n __launch_options -l read-only -f -d 'Mount the root read-only'
complete -c launch -n __launch_options -l volatile -f -a 'no yes state overlay' -d 'Run on a throw-away copy of the root, or of its parts'
complete -c launch -n __launch_options -l overlay-all -f -d 'Throw away all that is written, in bind mounts, too'
complete -c launch -n __launch_options -l pivot-root -r -f -d 'Take a directory of the tree as the root, the old one as OLD'
complete -c launch -n __launch_options -l profile -r -f -a 'default sandbox' -d 'What the machine gets without being asked for'
complete -c launch -n __launch_options -l join -r -f -d 'Run a bundle in the network, ipc and pid namespaces of a machine'
complete -c launch -n __launch_options -s M -l machine -r -f -a '(__launch_machines)' -d 'Name of the machine; the directory'\''s by default'
complete -c launch -n __launch_options -s b -l boot -f -d 'Run the tree'\''s init, with the words as its arguments'
complete -c launch -n __launch_options -s a -l as-pid2 -f -d 'Run a small init as process 1, the command as process 2'
complete -c launch -n __launch_options -l chdir -r -f -d 'Working directory in the machine'
complete -c launch -n __launch_options -s E -l setenv -r -f -a '(set --names --export)' -d 'Environment variable; without a value, the caller'\''s'
complete -c launch -n __launch_options -s u -l uid -r -f -d 'Run the command as this user of the machine'
complete -c launch -n __launch_options -l kill-signal -r -f -a 'SIGABRT SIGALRM SIGBUS SIGCHLD SIGCONT SIGFPE SIGHUP SIGILL SIGINT SIGIO SIGIOT SIGKILL SIGPIPE SIGPOLL SIGPROF SIGPWR SIGQUIT SIGSEGV SIGSTKFLT SIGSTOP SIGSYS SIGTERM SIGTRAP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGUSR1 SIGUSR2 SIGVTALRM SIGWINCH SIGXCPU SIGXFSZ' -d 'Signal that asks the machine to shut down'
complete -c launch -n __launch_options -l hostname -r -f -d 'Host name, if it isn'\''t the machine'\''s name'
complete -c launch -n __launch_options -l uuid -r -f -d 'Machine id, if the tree has none of its own'
complete -c launch -n __launch_options -l personality -r -f -a 'x86-64 x86' -d 'What uname(2) tells: the host'\''s architecture, or its 32-bit one'
complete -c launch -n __launch_options -l suppress-sync -r -f -a 'yes no' -d 'Don'\''t wait for the disk: sync calls do nothing'
complete -c launch -n __launch_options -l private-users -f -a 'no yes pick identity' -d 'Run with users of its own: yes, pick, identity, or a range'
complete -c launch -n __launch_options -l private-users-ownership -r -f -a 'off chown map foreign auto' -d 'How the tree'\''s files get owners that the machine can see'
complete -c launch -n __launch_options -s U -f -d 'Same as --private-users=pick'
complete -c launch -n __launch_options -l private-network -f -d 'Run with a network of its own, loopback only'
complete -c launch -n __launch_options -s n -l network-veth -f -d 'Join the machine'\''s network with the host'\''s by a virtual cable'
complete -c launch -n __launch_options -l network-veth-extra -r -f -d 'One more virtual cable, with these names at its ends'
complete -c launch -n __launch_options -l network-bridge -r -f -d 'Plug the virtual cable into a bridge of the host'\''s'
complete -c launch -n __launch_options -l network-zone -r -f -d 'Plug it into a bridge for all machines that name the same zone'
complete -c launch -n __launch_options -l network-macvlan -r -f -d 'An interface of its own on one of the host'\''s, by macvlan'
complete -c launch -n __launch_options -l network-ipvlan -r -f -d 'The same by ipvlan, which shares the hardware address'
complete -c launch -n __launch_options -l network-interface -r -f -d 'Move an interface of the host'\''s in, and back at the end'
complete -c launch -n __launch_options -l network-namespace-path -r -f -d 'Use a network namespace that is there already'
complete -c launch -n __launch_options -s p -l port -r -f -d 'Forward a port of the host to the machine'
complete -c launch -n __launch_options -l capability -r -f -a '(__fish_append , CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_AUDIT_WRITE CAP_BLOCK_SUSPEND CAP_BPF CAP_CHECKPOINT_RESTORE CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_IPC_LOCK CAP_IPC_OWNER CAP_KILL CAP_LEASE CAP_LINUX_IMMUTABLE CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_MKNOD CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_RAW CAP_PERFMON CAP_SETFCAP CAP_SETGID CAP_SETPCAP CAP_SETUID CAP_SYSLOG CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_CHROOT CAP_SYS_MODULE CAP_SYS_NICE CAP_SYS_PACCT CAP_SYS_PTRACE CAP_SYS_RAWIO CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_WAKE_ALARM all)' -d 'Capabilities to add to the default set'
complete -c launch -n __launch_options -l drop-capability -r -f -a '(__fish_append , CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_AUDIT_WRITE CAP_BLOCK_SUSPEND CAP_BPF CAP_CHECKPOINT_RESTORE CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_IPC_LOCK CAP_IPC_OWNER CAP_KILL CAP_LEASE CAP_LINUX_IMMUTABLE CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_MKNOD CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_RAW CAP_PERFMON CAP_SETFCAP CAP_SETGID CAP_SETPCAP CAP_SETUID CAP_SYSLOG CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_CHROOT CAP_SYS_MODULE CAP_SYS_NICE CAP_SYS_PACCT CAP_SYS_PTRACE CAP_SYS_RAWIO CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_WAKE_ALARM all)' -d 'Capabilities to take from the set'
complete -c launch -n __launch_options -l ambient-capability -r -f -a '(__fish_append , CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_AUDIT_WRITE CAP_BLOCK_SUSPEND CAP_BPF CAP_CHECKPOINT_RESTORE CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_IPC_LOCK CAP_IPC_OWNER CAP_KILL CAP_LEASE CAP_LINUX_IMMUTABLE CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_MKNOD CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_RAW CAP_PERFMON CAP_SETFCAP CAP_SETGID CAP_SETPCAP CAP_SETUID CAP_SYSLOG CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_CHROOT CAP_SYS_MODULE CAP_SYS_NICE CAP_SYS_PACCT CAP_SYS_PTRACE CAP_SYS_RAWIO CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_WAKE_ALARM)' -d 'Capabilities that the command starts with, whoever runs it'
complete -c launch -n __launch_options -l no-new-privileges -r -f -a 'yes no' -d 'Programs can'\''t gain rights from setuid files'
complete -c launch -n __launch_options -l system-call-filter -r -f -d 'System calls to allow, or with ~ to refuse, beside the default'
complete -c launch -n __launch_options -l restrict-address-families -r -f -d 'Kinds of sockets to allow, or with ~ to refuse; or none'
complete -c launch -n __launch_options -s Z -l selinux-context -r -f -d 'SELinux label of the machine'\''s processes'
complete -c launch -n __launch_options -s L -l selinux-apifs-context -r -f -d 'SELinux label of the files on the machine'\''s own file systems'
complete -c launch -n __launch_options -l rlimit -r -f -a 'CPU= FSIZE= DATA= STACK= CORE= RSS= NPROC= NOFILE= MEMLOCK= AS= LOCKS= SIGPENDING= MSGQUEUE= NICE= RTPRIO= RTTIME=' -d 'Resource limit of the command'
complete -c launch -n __launch_options -l oom-score-adjust -r -f -d 'Who is killed first when memory is short: -1000 last, 1000 first'
complete -c launch -n __launch_options -l cpu-affinity -r -f -d 'Processors to run on, as in 0,2-4'
complete -c launch -n __launch_options -l bind -r -d 'Show a file or directory of the host'
complete -c launch -n __launch_options -l bind-ro -r -d 'The same, read-only'
complete -c launch -n __launch_options -l tmpfs -r -f -d 'Mount an empty tmpfs'
complete -c launch -n __launch_options -l overlay -r -d 'Lay directories of the host over each other'
complete -c launch -n __launch_options -l overlay-ro -r -d 'The same, read-only'
complete -c launch -n __launch_options -l inaccessible -r -f -d 'Hide a file or directory of the tree'
complete -c launch -n __launch_options -l bind-user -r -f -d 'Have a user of the host in the machine, with the home directory'
complete -c launch -n __launch_options -l bind-user-shell -r -f -a 'yes no' -d 'Shell of those users: the one they have on the host, or a path'
complete -c launch -n __launch_options -l bind-user-group -r -f -d 'Group of the machine'\''s that those users are in, too'
complete -c launch -n __launch_options -l resolv-conf -r -f -a 'auto off copy-host copy-static copy-uplink copy-stub replace-host replace-static replace-uplink replace-stub bind-host bind-static bind-uplink bind-stub delete' -d 'How the machine resolves names: the host'\''s way, or its own'
complete -c launch -n __launch_options -l timezone -r -f -a 'auto off copy bind symlink delete' -d 'Where the machine'\''s time zone comes from'
complete -c launch -n __launch_options -l link-journal -r -f -a 'no auto host guest try-host try-guest' -d 'Where the machine'\''s journal is kept, so that the host sees it'
complete -c launch -n __launch_options -s j -f -d 'Same as --link-journal=try-guest'
complete -c launch -n __launch_options -l forward-journal -r -d 'Keep what the machine'\''s journal says on the host'
complete -c launch -n __launch_options -l forward-journal-max-use -r -f -d 'How much those files may take'
complete -c launch -n __launch_options -l forward-journal-keep-free -r -f -d 'How much they leave free'
complete -c launch -n __launch_options -l forward-journal-max-file-size -r -f -d 'How long one of them may be'
complete -c launch -n __launch_options -l forward-journal-max-files -r -f -d 'How many of them there may be'
complete -c launch -n __launch_options -l set-credential -r -f -d 'Give the machine a credential'
complete -c launch -n __launch_options -l load-credential -r -f -d 'Give the machine a credential that is read from a file or socket'
complete -c launch -n __launch_options -l console -r -f -a 'interactive read-only passive pipe autopipe' -d 'What the command has as input and output'
complete -c launch -n __launch_options -s P -l pipe -f -d 'Same as --console=pipe'
complete -c launch -n __launch_options -l register -r -f -a 'yes no auto' -d 'Tell systemd-machined about the machine'
complete -c launch -n __launch_options -l notify-ready -r -f -a 'yes no' -d 'Wait for the machine to say that it is ready'
complete -c launch -n __launch_options -l keep-unit -f -d 'Stay in the launcher'\''s own unit'
complete -c launch -n __launch_options -l system -f -d 'Be a machine of the system'\''s service manager (the default)'
complete -c launch -n __launch_options -l user -f -d 'Be a machine of the user'\''s own service manager'
complete -c launch -n __launch_options -s S -l slice -r -f -d 'Where the machine'\''s scope unit is'
complete -c launch -n __launch_options -l property -r -f -d 'Set a property of the machine'\''s scope unit'
complete -c launch -n __launch_options -s q -l quiet -f -d 'No status messages'
complete -c launch -n __launch_options -l share-system -f -d 'Share the host'\''s ipc, pid and uts namespaces'
complete -c launch -n __launch_options -l settings -r -f -a 'yes no override trusted' -d 'Whether to read MACHINE.nspawn, and what it may say'
complete -c launch -n __launch_options -l plan -f -a 'text json' -d 'Print what would be done, and do nothing'
complete -c launch -n __launch_options -l cleanup -f -d 'Remove what an earlier run has left'
complete -c launch -n __launch_options -l no-pager -f -d 'Accepted; nothing is ever shown in a pager'
complete -c launch -n __launch_options -l no-ask-password -f -d 'Accepted; nothing ever asks for a password'
complete -c launch -n __launch_options -l background -r -f -d 'Accepted; the terminal'\''s background stays as it is'
complete -c launch -n __launch_options -s h -l help -f -d 'Show this text'
complete -c launch -n __launch_options -l version -f -d 'Show the version'
