package ipvs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// statsFile has the totals of this network namespace, in hexadecimal (kernel
// source net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_stats_show).
const statsFile = "/proc/net/ip_vs_stats"

// Connections returns how many connections IPVS has scheduled to real servers
// since it was loaded, over all virtual servers of this network namespace.
func Connections() (uint64, error) {
	f, err := os.Open(statsFile)
	if os.IsNotExist(err) {
		return 0, ErrUnavailable
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return parseConnections(f)
}

// parseConnections reads the first number after the two lines of headings.
func parseConnections(r io.Reader) (uint64, error) {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		if n < 3 {
			continue
		}
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			break
		}
		conns, err := strconv.ParseUint(fields[0], 16, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", statsFile, err)
		}
		return conns, nil
	}
	return 0, fmt.Errorf("%s has no totals", statsFile)
}
