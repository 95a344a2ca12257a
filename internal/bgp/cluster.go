package bgp

import (
	"errors"
	"net/netip"
)

// SetCluster makes this speaker a reflector with a cluster ID, or none where
// that is invalid. GoBGP cannot say of a session that there is a client at its
// other end once it is up: the next SetPeers gives nodes of this system another
// one. The sessions of other peers are not touched.
//
// Peers drop what a session that is deleted has told them, whether this speaker
// restarts gracefully or not: one that does is better started anew.
func (s *Speaker) SetCluster(cluster netip.Addr) error {
	unlock, err := s.changing()
	if err != nil {
		return err
	}
	defer unlock()
	if cluster.IsValid() && !cluster.Is4() {
		return errors.New("BGP: the cluster ID " + cluster.String() + " is not an IPv4 address (RFC 4456)")
	}
	before := s.config.ClusterID
	s.setCluster(cluster)
	if err := s.applyPolicies(s.external); err != nil {
		s.setCluster(before)
		return err
	}
	return nil
}

// setCluster needs both locks, so that either is enough to read.
func (s *Speaker) setCluster(cluster netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config.ClusterID = cluster
}
