package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/config/oc"
	"github.com/osrg/gobgp/v4/pkg/server"
	"google.golang.org/grpc"
)

// Speaker is a BGP speaker. It is safe for concurrent use.
type Speaker struct {
	config Config
	log    *slog.Logger
	server *server.BgpServer
	goLog  *slog.Logger // GoBGP's
	bfdLog *slog.Logger // of its BFD
	// unwatch ends the stream of events; served is closed after the last work
	// of GoBGP's main loop.
	unwatch context.CancelFunc
	served  chan struct{}
	// mute silences GoBGP.
	mute atomic.Bool

	// apply serialises what changes the speaker, and is taken before mu.
	apply    sync.Mutex
	policy   Policy
	external []netip.Addr // whom the policies take for external peers
	bfd      detector     // from the first peer that has it on
	started  time.Time
	// limitRetry is the constant, but in tests.
	limitRetry time.Duration

	// bfdDeaf is why BFD hears nobody.
	bfdDeaf deaf

	mu         sync.Mutex
	unsigned   map[netip.Addr]string   // peers whose password the listeners did not take
	bfdState   func(netip.Addr) string // nil without BFD
	sessions   map[netip.Addr]*session
	advertised map[netip.Prefix]Route
	learned    map[netip.Prefix]map[source]netip.Addr
	accepted   accepted
	missed     missed
	hold       hold
	stopped    bool
}

// Start opens the listeners and begins to speak. Its error names what could
// not be opened, and then nothing runs.
func Start(config Config, log *slog.Logger) (*Speaker, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	s := &Speaker{
		config: config, log: log,
		served:     make(chan struct{}),
		advertised: map[netip.Prefix]Route{},
		sessions:   map[netip.Addr]*session{},
		unsigned:   map[netip.Addr]string{},
		learned:    map[netip.Prefix]map[source]netip.Addr{},
		accepted:   accepted{},
		started:    time.Now(),
		limitRetry: limitRetry,
		hold:       hold{on: config.startsOnHold()},
	}
	s.goLog = slog.New(quiet{Handler: log.Handler(), mute: &s.mute, failed: s.dialFailed, unsigned: s.listenersRefuse})
	s.bfdLog = slog.New(quiet{Handler: log.Handler(), mute: &s.mute, deaf: &s.bfdDeaf})
	options := []server.ServerOption{
		server.LoggerOption(s.goLog, new(slog.LevelVar)),
		server.GrpcOption([]grpc.ServerOption{grpc.StreamInterceptor(withoutPasswords)}),
	}
	if config.AdminAddr != "" {
		options = append(options, server.GrpcListenAddress(config.AdminAddr))
	}
	s.server = server.NewBgpServer(options...)
	go func() {
		defer close(s.served)
		s.server.Serve()
	}()
	if err := s.start(); err != nil {
		s.server.Stop()
		<-s.served
		return nil, fmt.Errorf("BGP on %v port %d: %w", config.Listen, config.Port, err)
	}
	return s, nil
}

func (s *Speaker) start() error {
	global := &api.Global{
		Asn:              s.config.ASN,
		RouterId:         s.config.RouterID.String(),
		ListenPort:       int32(s.config.Port),
		UseMultiplePaths: true,
		Families:         s.tables(),
	}
	if s.config.Port == 0 {
		global.ListenPort = -1
	}
	for _, a := range s.config.Listen {
		global.ListenAddresses = append(global.ListenAddresses, a.String())
	}
	if err := s.server.StartBgp(context.Background(), &api.StartBgpRequest{Global: global}); err != nil {
		return err
	}
	if err := s.applyPolicies(nil); err != nil {
		return err
	}
	if err := s.assignPolicies(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.unwatch = cancel
	return s.watch(ctx)
}

// tables are the families that GoBGP has tables for, in its numbers. Unasked it
// has them for all 24 that it knows, which is 9 MB.
func (s *Speaker) tables() []uint32 {
	var numbers []uint32
	for _, f := range s.families() {
		numbers = append(numbers, uint32(oc.AfiSafiTypeToIntMap[oc.AfiSafiType(f.String())]))
	}
	return numbers
}

// stopTime bounds Stop: what is not closed by then is left to the end of the
// process.
const stopTime = 2 * time.Second

// Stop ends all sessions. With GracefulRestart the connections just close, and
// the peers keep our routes until we are back or RestartTime is over; without,
// they are told (Cease) and drop our routes at once. What was learned stays
// readable, and no callback comes after Stop has returned.
func (s *Speaker) Stop() {
	s.apply.Lock()
	defer s.apply.Unlock()
	s.mu.Lock()
	was := s.stopped
	s.stopped = true
	for _, session := range s.sessions {
		session.rest.stop()
		session.again.stop()
	}
	s.hold.look.stop()
	s.mu.Unlock()
	if was {
		return
	}
	s.unwatch()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.stop()
	}()
	select {
	case <-done:
	case <-time.After(stopTime):
		s.log.Warn("BGP sessions did not close in time", "waited", stopTime)
	}
}

func (s *Speaker) stop() {
	request := &api.StopBgpRequest{AllowGracefulRestart: s.config.GracefulRestart}
	if err := s.server.StopBgp(context.Background(), request); err != nil {
		s.log.Warn("BGP did not stop cleanly", "err", err)
	}
	<-s.served
	s.mute.Store(true)
	if s.bfd != nil {
		s.bfd.Stop()
	}
	s.server.Stop() // the gRPC API; BGP itself has stopped
}

var errStopped = errors.New("BGP: the speaker has stopped")

// changing locks the speaker for a change, unless it has stopped.
func (s *Speaker) changing() (unlock func(), err error) {
	s.apply.Lock()
	s.mu.Lock()
	stopped := s.stopped
	s.mu.Unlock()
	if stopped {
		s.apply.Unlock()
		return nil, errStopped
	}
	return s.apply.Unlock, nil
}
