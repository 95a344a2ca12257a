package healthcheck

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/kube-router/kube-router/internal/cluster"
)

// retryPeriod is how long a port that is taken is left alone.
const retryPeriod = 10 * time.Second

// Set says what Services want, nil for one that wants nothing (any more). The
// others stay as they are. Ports are opened and closed at once; one that is
// taken is reported and tried again until it can be had.
func (s *Servers) Set(changes map[cluster.Key]*Check) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	dirty := map[uint16]struct{}{}
	for key, check := range changes {
		if check != nil && check.Port == 0 {
			check = nil
		}
		old, had := s.services[key]
		if had && (check == nil || check.Port != old.Port) {
			dirty[old.Port] = struct{}{}
			s.withdraw(key)
		}
		if check != nil {
			dirty[check.Port] = struct{}{}
			s.claim(key, *check)
		}
	}
	s.apply(dirty)
}

// claim and withdraw keep the claims on ports.
func (s *Servers) claim(key cluster.Key, check Check) {
	s.services[key] = check
	claims := s.claims[check.Port]
	if at, found := slices.BinarySearchFunc(claims, key, byName); !found {
		s.claims[check.Port] = slices.Insert(claims, at, key)
	}
}

func (s *Servers) withdraw(key cluster.Key) {
	port := s.services[key].Port
	claims := slices.DeleteFunc(s.claims[port], func(k cluster.Key) bool { return k == key })
	if s.claims[port] = claims; len(claims) == 0 {
		delete(s.claims, port)
	}
	delete(s.services, key)
	delete(s.told, key.String())
}

func byName(a, b cluster.Key) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// apply brings ports to what the Services want; first what is given up, so that
// nothing holds what is wanted. The caller holds the lock.
func (s *Servers) apply(ports map[uint16]struct{}) {
	for port := range ports {
		if s.servers[port] != nil && len(s.claims[port]) == 0 {
			s.closePort(port)
		}
	}
	for _, port := range slices.Sorted(maps.Keys(ports)) {
		if claims := s.claims[port]; len(claims) > 0 {
			s.give(port, claims)
		}
	}
}

// give gives a port to the first of the Services that claim it. A server that
// runs goes on for another owner: the answer is made anew for each request.
func (s *Servers) give(port uint16, claims []cluster.Key) {
	owner := claims[0]
	if server := s.servers[port]; server != nil {
		server.owner = owner
		s.tell(owner, nil)
	} else {
		err := s.open(port, owner)
		s.tell(owner, err)
		if err != nil {
			s.retryLater()
		}
	}
	for _, loser := range claims[1:] {
		s.tell(loser, fmt.Errorf("healthCheckNodePort %d is that of the Service %s too, which has it: give this Service another one", port, owner))
	}
}

// tell reports what is wrong with a Service's port, once, and its end.
func (s *Servers) tell(key cluster.Key, err error) {
	began, ended := s.told.Change(key.String(), err)
	switch {
	case began:
		s.log.Warn("health check port of a Service is not served", "service", key, "port", s.services[key].Port, "err", err)
		if service := s.services[key].Service; service != nil {
			s.events.Warn("Service", service, "HealthCheckNodePort", err.Error())
		}
	case ended:
		s.log.Info("health check port of a Service is served now", "service", key, "port", s.services[key].Port)
	}
}

// retryLater tries again, after a while, to open what is not. The caller holds
// the lock.
func (s *Servers) retryLater() {
	if s.retry != nil || s.closed {
		return
	}
	s.retry = time.AfterFunc(retryPeriod, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.retry = nil
		if !s.closed {
			s.apply(s.missing())
		}
	})
}

// missing are the ports that are wanted and not served.
func (s *Servers) missing() map[uint16]struct{} {
	ports := map[uint16]struct{}{}
	for port := range s.claims {
		if s.servers[port] == nil {
			ports[port] = struct{}{}
		}
	}
	return ports
}
