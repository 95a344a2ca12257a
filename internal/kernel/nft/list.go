package nft

import (
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// families are nftables' names of the netfilter families
// (include/uapi/linux/netfilter.h).
var families = map[byte]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_ARP: "arp",
	unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_IPV6: "ip6",
}

// List lists all tables of the calling thread's network namespace without a
// program. A kernel without nf_tables is an error.
func List() ([]Table, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("listing the tables of nftables: %w", err)
	}
	defer conn.Close()
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE,
			Flags: netlink.Request | netlink.Dump,
		},
		Data: []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	if err != nil {
		return nil, fmt.Errorf("listing the tables of nftables: %w", err)
	}
	tables := make([]Table, 0, len(answers))
	for _, a := range answers {
		table, err := decode(a.Data)
		if err != nil {
			return nil, fmt.Errorf("listing the tables of nftables: %w", err)
		}
		tables = append(tables, table)
	}
	return tables, nil
}

// unsupported says whether an error of List is that of a kernel without nf_tables
// (nfnetlink_rcv_msg), or without netfilter.
func unsupported(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

// decode reads a struct nfgenmsg and its attributes.
func decode(message []byte) (Table, error) {
	const header = 4
	if len(message) < header {
		return Table{}, fmt.Errorf("the kernel's answer has %d bytes", len(message))
	}
	table := Table{Family: families[message[0]]}
	ad, err := netlink.NewAttributeDecoder(message[header:])
	if err != nil {
		return Table{}, err
	}
	for ad.Next() {
		if ad.Type() == unix.NFTA_TABLE_NAME {
			table.Name = ad.String()
		}
	}
	return table, ad.Err()
}
