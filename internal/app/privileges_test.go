package app

import (
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Without the capability the agent says what to do, whatever its user is.
func TestPrivileges(t *testing.T) {
	said := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with what it has lost
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			said <- err
			return
		}
		said <- checkPrivileges()
	}()
	if err := <-said; err == nil || !strings.HasPrefix(err.Error(), "the capability NET_ADMIN is missing (user ") {
		t.Errorf("without any capability: %v", err)
	}
	may, err := mayAdminister()
	if err != nil {
		t.Fatal(err)
	}
	if err := checkPrivileges(); (err == nil) != may {
		t.Errorf("with the capability %t: %v", may, err)
	}
}
