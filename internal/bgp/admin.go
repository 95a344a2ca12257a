package bgp

import (
	"github.com/osrg/gobgp/v4/api"
	"google.golang.org/grpc"
)

// withoutPasswords keeps passwords from who asks GoBGP's API for its peers.
func withoutPasswords(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	return handle(server, redacted{stream})
}

type redacted struct{ grpc.ServerStream }

// SendMsg sends a message without the password that may be in it. The message
// is a copy of what the speaker has.
func (r redacted) SendMsg(message any) error {
	if m, ok := message.(*api.ListPeerResponse); ok {
		if conf := m.GetPeer().GetConf(); conf.GetAuthPassword() != "" {
			conf.AuthPassword = Secret(conf.AuthPassword).String()
		}
		if state := m.GetPeer().GetState(); state.GetAuthPassword() != "" {
			state.AuthPassword = Secret(state.AuthPassword).String()
		}
	}
	return r.ServerStream.SendMsg(message)
}
