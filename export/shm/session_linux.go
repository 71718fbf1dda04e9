package shm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvgym/kvgym/export"
	"github.com/kvgym/kvgym/vecenv"
)

// session is one client's time with a range: from its hello to its end.
type session struct {
	conn    *net.UnixConn
	file    *os.File
	mem     []byte
	segment Segment
	batch   *vecenv.Batch
	blocks  []vecenv.Buffers
	turn    int // the block of the last results; the server's own copy, as is all that it counts with
	idle    time.Duration
	request waiter // its over tells that somebody wants the session to end

	ops   []uint8
	mask  []uint8
	seeds []uint64
	pairs []int32

	// Copies of a reset's inputs: what a client changes meanwhile is not seen.
	ownMask  []bool
	ownSeeds []uint64

	ending sync.Once
	why    string
}

// newSession makes what a client is going to work with: a batch of its own that nobody has stepped, in memory that nobody has seen.
func newSession(conn *net.UnixConn, name string, cfg vecenv.Config, d *export.Description, seg Segment, hash [32]byte) (*session, error) {
	mem, file, err := newMemory(name, seg.Size)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn, file: file, mem: mem, segment: seg}
	s.request.word, s.request.sleeps, s.request.spin = word32(mem, offRequest), word32(mem, offServerSleeps), spinTime()
	populate(mem[:min(seg.Size, (seg.Pairs+hugePage-1)&^(hugePage-1))])
	for _, at := range seg.Blocks {
		s.blocks = append(s.blocks, buffers(mem, d, at))
	}
	cfg.Buffers = s.blocks[0]
	if s.batch, err = vecenv.New(cfg); err != nil {
		s.close()
		return nil, err
	}
	s.ops = slice[uint8](mem, seg.Ops, d.Envs*d.Slots)
	s.mask = slice[uint8](mem, seg.Mask, d.Envs)
	s.seeds = slice[uint64](mem, seg.Seeds, d.Envs)
	s.pairs = slice[int32](mem, seg.Pairs, d.Envs*seg.PairsPerEnv*2)
	s.ownMask, s.ownSeeds = make([]bool, d.Envs), make([]uint64, d.Envs)
	copy(mem[offMagic:], Magic)
	copy(mem[offHash:], hash[:])
	*word32(mem, offVersion) = Version
	*word64(mem, offSize) = uint64(seg.Size)
	return s, nil
}

// close frees everything. Nobody may use the session any more.
func (s *session) close() {
	if s.batch != nil {
		s.batch.Close()
	}
	_ = s.file.Close()
	unmapMemory(s.mem)
}

// end makes run return, and says why; the first reason counts. Any goroutine may call it.
func (s *session) end(why string) {
	s.ending.Do(func() {
		s.why = why
		s.request.over.Store(true)
	})
}

// run serves the client until one side ends it, and tells why.
func (s *session) run() string {
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.watch()
	}()
	done := uint32(0)
	for !s.request.over.Load() {
		request, changed := s.request.change(done, s.idle)
		if !changed {
			s.end(fmt.Sprintf("no call for %v", s.idle))
			break
		}
		status, text := s.answer(request, done+1)
		s.reply(status, text)
		done++
		publish(word32(s.mem, offDone), word32(s.mem, offClientSleeps), done)
		if status == statusBroken || status == statusFoul {
			s.end(text)
		}
	}
	_ = s.conn.SetReadDeadline(time.Now()) // ends watch
	<-watched
	return s.why
}

// watch notices that the client has gone: its system closes the connection with it. A client has nothing to say here.
func (s *session) watch() {
	one := make([]byte, 1)
	for !s.request.over.Load() {
		_ = s.conn.SetReadDeadline(time.Now().Add(watchSlice))
		n, err := s.conn.Read(one)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case n > 0:
			s.end("the client sent a message: allowed a hello only")
		default:
			s.end("the client has gone")
		}
		futexWake(word32(s.mem, offRequest))
		return
	}
}

const watchSlice = 250 * time.Millisecond

// answer does what a request asks for.
func (s *session) answer(request, want uint32) (status uint32, text string) {
	defer func() {
		if r := recover(); r != nil { // of a reset; a step's are errors. Other ranges have nothing to do with it.
			status, text = statusBroken, fmt.Sprintf("panic: %v: the batch is broken, connect again", r)
		}
	}()
	if request != want {
		return statusFoul, fmt.Sprintf("request: epoch %d: allowed %d, the last one plus 1", request, want)
	}
	c, err := parseCommand(atomic.LoadUint64(word64(s.mem, offCommand)), s.segment.PairsPerEnv, len(s.blocks))
	if err != nil {
		return statusFoul, err.Error()
	}
	if c.kind == cmdIdentities {
		s.identify()
		return statusDone, ""
	}
	next := (s.turn + 1) % len(s.blocks)
	if c.block > 0 {
		next = c.block - 1
	}
	if err = s.batch.SetBuffers(s.blocks[next]); err == nil {
		err = s.do(c, next)
	}
	if err != nil {
		return statusOf(err), err.Error()
	}
	s.turn = next
	return statusDone, ""
}

func statusOf(err error) uint32 {
	var broken *vecenv.PanicError
	if errors.As(err, &broken) {
		return statusBroken
	}
	return statusRefused
}

func (s *session) do(c command, next int) error {
	switch c.kind {
	case cmdStep:
		return s.batch.Step(vecenv.Actions{Ops: s.ops})
	case cmdPairs:
		return s.batch.Step(vecenv.Actions{List: s.pairs[:len(s.mask)*c.pairs*2], PerEnv: c.pairs})
	}
	var o vecenv.ResetOptions
	if c.seeds {
		copy(s.ownSeeds, s.seeds)
		o.Seeds = s.ownSeeds
	}
	if c.mask {
		for i := range s.ownMask {
			s.ownMask[i] = s.mask[i] != 0
		}
		o.Mask = s.ownMask
		copyBlock(&s.blocks[next], &s.blocks[s.turn]) // rows that are not reset stay
	}
	return s.batch.Reset(o)
}

// identify writes which episode each environment plays.
func (s *session) identify() {
	seeds, numbers, episodes := s.segment.identities(s.mem, len(s.mask))
	for i := range seeds {
		id := s.batch.Identity(i)
		seeds[i], numbers[i], episodes[i] = id.Seed, id.Env, id.Episode
	}
}

// copyBlock copies every tensor of a block to another one, which may be the same.
func copyBlock(to, from *vecenv.Buffers) {
	copy(to.Obs, from.Obs)
	copy(to.FinalObs, from.FinalObs)
	copy(to.ObsBytes, from.ObsBytes)
	copy(to.FinalObsBytes, from.FinalObsBytes)
	copy(to.Reward, from.Reward)
	copy(to.Terminated, from.Terminated)
	copy(to.Truncated, from.Truncated)
	copy(to.Mask, from.Mask)
	copy(to.Components, from.Components)
	copy(to.Metrics, from.Metrics)
}

// reply writes how a request ended, for publish to follow.
func (s *session) reply(status uint32, text string) {
	atomic.StoreUint32(word32(s.mem, offStatus), status)
	atomic.StoreUint32(word32(s.mem, offTurn), uint32(s.turn))
	if text != "" {
		room := s.mem[offText:][:textBytes]
		room[copy(room[:textBytes-1], text)] = 0
	}
}
