package image

// iptablesScript picks the variant that the agent uses when somebody runs
// iptables by hand: the legacy one where that alone has chains of ours, or the
// kernel has no nf_tables families, as a User-Mode Linux guest. The check adds a
// table without committing it; iptables-nft itself tells nothing, as it lists
// chains also where the kernel has none.
const iptablesScript = `#!/bin/sh
name=${0##*/}; family=${name%%-*}; tool=
case $name in *-save|*-restore) tool=-${name##*-} ;; esac
ours() { case $("$family-$1-save" 2>/dev/null) in *:KUBE-ROUTER-*) ;; *) return 1 ;; esac; }
variant=nft
if ! nft --check add table ip kube-router-probe 2>/dev/null; then variant=legacy
elif ours legacy && ! ours nft; then variant=legacy
fi
exec "$family-$variant$tool" "$@"
`

// iptablesFiles put the script before Debian's own links in PATH.
func iptablesFiles() []File {
	var files []File
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		files = append(files, File{Text: iptablesScript, To: "/usr/local/sbin/" + name})
	}
	return files
}
