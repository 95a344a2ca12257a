package image

// iptablesScript picks the variant that the kernel has when somebody runs
// iptables by hand: a User-Mode Linux guest has no nf_tables families. The
// check adds a table without committing it; iptables-nft itself tells nothing,
// as it lists chains also where the kernel has none.
const iptablesScript = `#!/bin/sh
name=${0##*/}; family=${name%%-*}; tool=
case $name in *-save|*-restore) tool=-${name##*-} ;; esac
if nft --check add table ip kube-router-probe 2>/dev/null; then variant=nft; else variant=legacy; fi
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
