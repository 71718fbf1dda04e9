package shm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvgym/kvgym/export"
	"github.com/kvgym/kvgym/kernels"
	"github.com/kvgym/kvgym/vecenv"
)

// Deadlines and bounds of the server.
const (
	helloLimit    = 2 * time.Second        // for a hello to come and an answer to go
	rangeLimit    = time.Second            // for a range to become free whose client is just leaving
	stopLimit     = 5 * time.Second        // for sessions to end when the server does
	noticeLimit   = 100 * time.Millisecond // for a last notice to go
	maxHandshakes = 16                     // at a time; more wait
	acceptPause   = 2 * time.Millisecond   // between connections, so that a flood of them leaves the others their time
)

// server is a running server.
type server struct {
	cfg     Config
	batch   vecenv.Config // of all environments; buffers and numbers are those of each range
	desc    *export.Description
	hash    [32]byte
	workers int
	spans   []*span
	hands   chan struct{} // one for each handshake

	mu      sync.Mutex
	freed   chan struct{} // closed and replaced when a range is freed
	stopped bool
	logMu   sync.Mutex
	all     sync.WaitGroup
}

// span is a range of environments.
type span struct {
	index, first, end int
	desc              *export.Description
	segment           Segment
	holder            int32 // process number of its client; 0: free
	session           *session
}

// Serve serves environments until ctx ends, and returns the cause then. Errors before that name what was wrong with the
// configuration or the place. Whatever happens, it leaves nothing behind in the directory.
func Serve(ctx context.Context, cfg Config) error {
	s, err := newServer(cfg)
	if err != nil {
		return err
	}
	p, err := claim(s.cfg.Dir, s.cfg.Name)
	if err != nil {
		return err
	}
	defer p.release()
	if err := s.load(ctx); err != nil {
		return err
	}
	if s.cfg.Ready != nil {
		s.cfg.Ready(s.info(p.path))
	}
	stop := context.AfterFunc(ctx, func() { _ = p.listener.Close() })
	defer stop()
	err = s.accept(ctx, p.listener)
	if late := s.stop(); late != nil {
		s.log("%v", late)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// load reads what the configuration names, which may be a long trace: it stops waiting for that when ctx ends.
func (s *server) load(ctx context.Context) error {
	loaded := make(chan error, 1)
	go func() {
		cfg, err := s.cfg.Spec.Config()
		s.batch = cfg
		loaded <- err
	}()
	select {
	case err := <-loaded:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if s.cfg.source != nil {
		s.batch.Source = s.cfg.source(s.batch.Source)
	}
	s.desc.SIMD = kernels.Active().String()
	for _, p := range s.spans {
		p.desc.SIMD = s.desc.SIMD
	}
	return nil
}

func newServer(cfg Config) (*server, error) {
	if err := CheckName(cfg.Name); err != nil {
		return nil, err
	}
	if cfg.Dir == "" {
		cfg.Dir = RuntimeDir()
	}
	if cfg.Clients == 0 {
		cfg.Clients = 1
	}
	if cfg.Blocks == 0 {
		cfg.Blocks = DefaultBlocks
	}
	if cfg.Idle == 0 {
		cfg.Idle = DefaultIdle
	}
	if cfg.authorize == nil {
		cfg.authorize = sameUser
	}
	if cfg.Spec.Groups > 1 {
		return nil, fmt.Errorf("config: groups: %d: allowed 1: clients have ranges", cfg.Spec.Groups)
	}
	if cfg.Spec.Pin && cfg.Clients > 1 { // every range would have its threads on the same processors
		return nil, fmt.Errorf("config: pin: true with %d clients: allowed with one", cfg.Clients)
	}
	if cfg.Idle < 0 {
		return nil, fmt.Errorf("idle: %v: allowed more than 0", cfg.Idle)
	}
	d, err := export.Describe(&cfg.Spec)
	if err != nil {
		return nil, err
	}
	if limit := min(d.Envs, MaxClients); cfg.Clients < 1 || cfg.Clients > limit {
		return nil, fmt.Errorf("clients: %d: allowed 1 to %d", cfg.Clients, limit)
	}
	s := &server{cfg: cfg, desc: d, hash: Hash(d), hands: make(chan struct{}, maxHandshakes), freed: make(chan struct{})}
	s.workers = cfg.Spec.Workers
	if s.workers == 0 {
		s.workers = runtime.GOMAXPROCS(0)
	}
	s.workers = max(1, s.workers/cfg.Clients)
	for i := range cfg.Clients {
		if err := s.addSpan(i); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *server) addSpan(i int) error {
	spec := s.cfg.Spec
	n, k := spec.Envs, s.cfg.Clients
	p := &span{index: i, first: n * i / k, end: n * (i + 1) / k}
	spec.Envs = p.end - p.first
	var err error
	if p.desc, err = export.Describe(&spec); err != nil {
		return err
	}
	if p.segment, err = SegmentOf(p.desc, s.cfg.Blocks); err != nil {
		return err
	}
	s.spans = append(s.spans, p)
	return nil
}

func (s *server) info(socket string) Info {
	i := Info{Name: s.cfg.Name, Socket: socket, PID: os.Getpid(), Version: Version, Layout: HashText(s.hash), Envs: s.desc.Envs,
		Workers: s.workers, Blocks: s.cfg.Blocks, SIMD: s.desc.SIMD}
	for _, p := range s.spans {
		i.Ranges = append(i.Ranges, [2]int{p.first, p.end})
		i.SegmentBytes = max(i.SegmentBytes, p.segment.Size)
	}
	return i
}

func (s *server) log(format string, args ...any) {
	if s.cfg.Log == nil {
		return
	}
	s.logMu.Lock()
	defer s.logMu.Unlock()
	s.cfg.Log(fmt.Sprintf(format, args...))
}

// accept takes connections until the listener is closed, which happens when ctx ends. Where too many shake hands, the others wait in the
// system's queue.
func (s *server) accept(ctx context.Context, l *net.UnixListener) error {
	for {
		conn, err := l.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil: // out of descriptors, say: others may end
			s.log("accepting a client: %v", err)
			time.Sleep(noticeLimit)
			continue
		}
		select {
		case s.hands <- struct{}{}:
			s.all.Add(1)
			go s.serve(conn)
		case <-ctx.Done():
			_ = conn.Close()
			return nil
		}
		time.Sleep(acceptPause)
	}
}

// serve is the whole life of a connection.
func (s *server) serve(conn *net.UnixConn) {
	defer s.all.Done()
	defer conn.Close()
	cred, p, ses, err := s.shakeHands(conn)
	<-s.hands
	if err != nil {
		if p != nil {
			s.free(p)
		}
		notice(conn, err.Error())
		s.log("client %d: refused: %v", cred.Pid, err)
		return
	}
	s.log("client %d: range %d (environments %d to %d): connected", cred.Pid, p.index, p.first, p.end-1)
	why := ses.run()
	notice(conn, why)
	ses.close()
	s.free(p)
	s.log("client %d: range %d (environments %d to %d): free again: %s", cred.Pid, p.index, p.first, p.end-1, why)
}

// shakeHands checks who is there and what it wants, takes a range for it and makes it a session. A range is returned with an error, too, if
// it was taken.
func (s *server) shakeHands(conn *net.UnixConn) (cred unix.Ucred, p *span, ses *session, err error) {
	if cred, err = peer(conn); err != nil {
		return cred, nil, nil, err
	}
	text, err := readHello(conn) // whoever it is: a connection with something unread in it takes the answer with it when it is closed
	if err != nil {
		return cred, nil, nil, err
	}
	if err = s.cfg.authorize(cred.Uid); err != nil {
		return cred, nil, nil, err
	}
	h, err := parseHello(text)
	if err != nil {
		return cred, nil, nil, err
	}
	if got := HashText(s.hash); h.Layout != "" && h.Layout != got {
		return cred, nil, nil, fmt.Errorf("layout: %s: allowed %s, of server %s: is it the configuration that the trainer was made for?", plain(h.Layout), got, s.cfg.Name)
	}
	if p, err = s.take(h.Range, cred.Pid); err != nil {
		return cred, nil, nil, err
	}
	cfg := s.batch
	cfg.Envs, cfg.FirstEnv, cfg.Workers = p.end-p.first, cfg.FirstEnv+uint32(p.first), s.workers
	ses, err = newSession(conn, fmt.Sprintf("%s-%d", s.cfg.Name, p.index), cfg, p.desc, p.segment, s.hash)
	if err != nil {
		return cred, p, nil, err
	}
	ses.idle = s.cfg.Idle
	if err = s.welcome(conn, p, ses); err == nil && !s.enter(p, ses) {
		err = errors.New("the server is ending")
	}
	if err != nil {
		ses.close()
	}
	return cred, p, ses, err
}

// readHello reads the message of a client that may be slow, dead or hostile.
func readHello(conn *net.UnixConn) ([]byte, error) {
	_ = conn.SetReadDeadline(time.Now().Add(helloLimit))
	text := make([]byte, maxHello+1)
	n, err := conn.Read(text)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, fmt.Errorf("hello: none in %v: allowed one message at once", helloLimit)
	}
	if err != nil {
		return nil, errors.New("hello: the client has gone")
	}
	return text[:n], nil
}

// take gives a client the range that it wants, or the first free one, and waits for a moment if there is none.
func (s *server) take(want *int, pid int32) (*span, error) {
	if want != nil && (*want < 0 || *want >= len(s.spans)) {
		return nil, fmt.Errorf("range: %d: allowed 0 to %d", *want, len(s.spans)-1)
	}
	limit := time.NewTimer(rangeLimit)
	defer limit.Stop()
	for {
		s.mu.Lock()
		for _, p := range s.spans {
			if p.holder == 0 && (want == nil || *want == p.index) {
				p.holder = pid
				s.mu.Unlock()
				return p, nil
			}
		}
		freed := s.freed
		s.mu.Unlock()
		select {
		case <-freed:
		case <-limit.C:
			return nil, s.taken(want)
		}
	}
}

// taken says who has what a client wanted.
func (s *server) taken(want *int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	free := []int{}
	for _, p := range s.spans {
		if p.holder == 0 {
			free = append(free, p.index)
		}
	}
	if want == nil {
		return fmt.Errorf("range: all %d are taken: allowed one client a range: start the server with more --clients", len(s.spans))
	}
	return fmt.Errorf("range: %d: taken by process %d: allowed a free one, now %v", *want, s.spans[*want].holder, free)
}

// enter makes a session known to stop, which it must not escape.
func (s *server) enter(p *span, ses *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.session = ses
	return !s.stopped
}

// free gives a range back. Its session must be closed.
func (s *server) free(p *span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.holder, p.session = 0, nil
	close(s.freed)
	s.freed = make(chan struct{})
}

// welcome tells a client what it has got, with the descriptor of its memory.
func (s *server) welcome(conn *net.UnixConn, p *span, ses *session) error {
	text, err := json.Marshal(welcome{Version: Version, Server: s.cfg.Name, PID: os.Getpid(), Range: p.index, FirstEnv: int(s.cfg.Spec.FirstEnv) + p.first,
		Layout: HashText(s.hash), Segment: &p.segment, Description: p.desc})
	if err != nil {
		return err
	}
	if len(text) > maxWelcome {
		return fmt.Errorf("welcome: %d bytes: allowed %d", len(text), maxWelcome)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(helloLimit))
	_, _, err = conn.WriteMsgUnix(text, unix.UnixRights(int(ses.file.Fd())), nil)
	return err
}

// notice tells a client why the connection ends. It may have gone.
func notice(conn *net.UnixConn, why string) {
	text, err := json.Marshal(welcome{Version: Version, Error: why})
	if err == nil {
		_ = conn.SetWriteDeadline(time.Now().Add(noticeLimit))
		_, _ = conn.Write(text)
	}
}

// stop ends all sessions and waits for them.
func (s *server) stop() error {
	s.mu.Lock()
	s.stopped = true
	for _, p := range s.spans {
		if p.session != nil {
			p.session.end("the server was stopped")
		}
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() { s.all.Wait(); close(ended) }()
	select {
	case <-ended:
		return nil
	case <-time.After(stopLimit):
		return fmt.Errorf("stopping: clients are still being served after %v", stopLimit)
	}
}
