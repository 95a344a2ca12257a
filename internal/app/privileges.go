package app

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// checkPrivileges says what to do where the kernel would refuse everything.
// It looks at the capability, which root in a container may lack, and another
// user may have.
func checkPrivileges() error {
	allowed, err := mayAdminister()
	if err != nil || allowed { // what cannot be told will show
		return nil
	}
	return fmt.Errorf("the capability NET_ADMIN is missing (user %d), without which the kernel lets nobody change routes, rules or Services: "+
		"run it as root; in a container, with the securityContext of the manifests", os.Geteuid())
}

// mayAdminister says whether this thread has CAP_NET_ADMIN in effect.
func mayAdminister() (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return false, err
	}
	return sets[unix.CAP_NET_ADMIN/32].Effective&(1<<(unix.CAP_NET_ADMIN%32)) != 0, nil
}
