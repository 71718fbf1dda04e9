package shm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvgym/kvgym/export"
	"github.com/kvgym/kvgym/vecenv"
)

// Client is a trainer's end in Go. One goroutine at a time may call it.
type Client struct {
	Name        string
	PID         int // of the server
	Range       int
	FirstEnv    int
	Layout      string
	Description *export.Description

	conn    *net.UnixConn
	mem     []byte
	segment Segment
	blocks  []vecenv.Buffers
	turn    int
	done    uint32
	answer  waiter
	limit   time.Duration
	failed  error // what ended the connection
	ops     []uint8
	pairs   []int32
}

// Dialing says what a client wants.
type Dialing struct {
	Dir    string        // default RuntimeDir()
	Range  *int          // default a free one
	Layout string        // the hash that the trainer was made for; default any
	Wait   time.Duration // for the server to be there and answer; default 10 s
	Limit  time.Duration // for a call; default a minute
}

// ErrGone tells that the server has ended, or has ended the connection.
var ErrGone = errors.New("the server has gone")

// ErrRefused tells that the server could not do what was asked; nothing has changed.
var ErrRefused = errors.New("refused")

// Dial connects to a server, which may still be starting. The client must be closed.
func Dial(name string, o Dialing) (*Client, error) {
	if o.Dir == "" {
		o.Dir = RuntimeDir()
	}
	if o.Wait == 0 {
		o.Wait = 10 * time.Second
	}
	if o.Limit == 0 {
		o.Limit = time.Minute
	}
	c, err := dial(name, o)
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", name, err)
	}
	return c, nil
}

func dial(name string, o Dialing) (*Client, error) {
	path, err := socketPath(o.Dir, name)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(o.Wait)
	conn, err := reach(path, o.Dir, deadline)
	if err != nil {
		return nil, err
	}
	c, err := greet(conn, o, deadline)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	c.limit = o.Limit
	return c, nil
}

// reach connects to a socket as soon as a server listens there.
func reach(path, dir string, deadline time.Time) (*net.UnixConn, error) {
	for {
		err := checkDir(dir)
		if err == nil {
			var conn *net.UnixConn
			if conn, err = net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"}); err == nil {
				return conn, nil
			}
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ECONNREFUSED) {
			return nil, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no server at %s: start one with kvgym serve", path)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func greet(conn *net.UnixConn, o Dialing, deadline time.Time) (*Client, error) {
	cred, err := peer(conn)
	if err == nil {
		err = sameUser(cred.Uid)
	}
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(hello{Version: Version, Range: o.Range, Layout: o.Layout})
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(deadline)
	if _, err := conn.Write(text); err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	w, fd, err := readWelcome(conn)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	mem, err := openMemory(fd, w.Segment.Size)
	if err != nil {
		return nil, err
	}
	return newClient(conn, w, mem)
}

// readWelcome reads the server's answer, and the one descriptor that comes with it.
func readWelcome(conn *net.UnixConn) (w welcome, fd int, err error) {
	text, rights := make([]byte, maxWelcome), make([]byte, unix.CmsgSpace(4))
	n, m, _, _, err := conn.ReadMsgUnix(text, rights)
	if err != nil {
		return w, -1, fmt.Errorf("welcome: %w", err)
	}
	fds := descriptors(rights[:m])
	w, err = parseWelcome(text[:n])
	if err == nil && len(fds) != 1 {
		err = fmt.Errorf("welcome: %d descriptors: allowed 1", len(fds))
	}
	if err != nil {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return w, -1, err
	}
	return w, fds[0], nil
}

func descriptors(rights []byte) (fds []int) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil
	}
	for i := range messages {
		if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, got...)
		}
	}
	return fds
}

func newClient(conn *net.UnixConn, w welcome, mem []byte) (*Client, error) {
	h := Hash(w.Description)
	if string(mem[:len(Magic)]) != Magic || *word32(mem, offVersion) != Version || HashText([32]byte(mem[offHash:])) != w.Layout || HashText(h) != w.Layout {
		unmapMemory(mem)
		return nil, fmt.Errorf("segment: not one of version %d and layout %s", Version, plain(w.Layout))
	}
	c := &Client{Name: w.Server, PID: w.PID, Range: w.Range, FirstEnv: w.FirstEnv, Layout: w.Layout, Description: w.Description,
		conn: conn, mem: mem, segment: *w.Segment}
	c.answer.word, c.answer.sleeps, c.answer.spin = word32(mem, offDone), word32(mem, offClientSleeps), spinTime()
	for _, at := range w.Segment.Blocks {
		c.blocks = append(c.blocks, buffers(mem, w.Description, at))
	}
	c.ops = slice[uint8](mem, w.Segment.Ops, w.Description.Envs*w.Description.Slots)
	c.pairs = slice[int32](mem, w.Segment.Pairs, w.Description.Envs*w.Segment.PairsPerEnv*2)
	return c, nil
}

// Ops is the op matrix that Step sends, on the segment: fill it in place. It is valid until Close.
func (c *Client) Ops() []uint8 { return c.ops }

// Block is what the last call wrote, on the segment: valid for as many steps as there are other blocks, and until Close.
func (c *Client) Block() *vecenv.Buffers { return &c.blocks[c.turn] }

// Step steps with the operations in Ops.
func (c *Client) Step() error { return c.call(command{kind: cmdStep}) }

// StepPairs steps with perEnv ordered pairs (op, slot) for each environment.
func (c *Client) StepPairs(list []int32, perEnv int) error {
	if perEnv < 0 || perEnv > c.segment.PairsPerEnv || len(list) != c.Description.Envs*perEnv*2 {
		return fmt.Errorf("server %s: pairs: %d values with %d an environment: allowed 0 to %d pairs for each of %d environments", c.Name, len(list), perEnv,
			c.segment.PairsPerEnv, c.Description.Envs)
	}
	copy(c.pairs, list)
	return c.call(command{kind: cmdPairs, pairs: perEnv})
}

// Reset is vecenv's, without identities.
func (c *Client) Reset(mask []bool, seeds []uint64) error {
	n := c.Description.Envs
	if (mask != nil && len(mask) != n) || (seeds != nil && len(seeds) != n) {
		return fmt.Errorf("server %s: reset: %d values of mask, %d of seeds: allowed %d, one an environment", c.Name, len(mask), len(seeds), n)
	}
	for i, m := range mask {
		c.mem[c.segment.Mask+int64(i)] = 0
		if m {
			c.mem[c.segment.Mask+int64(i)] = 1
		}
	}
	copy(slice[uint64](c.mem, c.segment.Seeds, n), seeds)
	return c.call(command{kind: cmdReset, mask: mask != nil, seeds: seeds != nil})
}

// Identities tells which episode each environment plays: its seed, its number, and how many it has played before. The slices stand on the
// segment: valid until the next Identities, and until Close.
func (c *Client) Identities() (seeds []uint64, envs, episodes []uint32, err error) {
	if err = c.call(command{kind: cmdIdentities}); err != nil {
		return nil, nil, nil, err
	}
	seeds, envs, episodes = c.segment.identities(c.mem, c.Description.Envs)
	return seeds, envs, episodes, nil
}

// call publishes a request and waits for its end. Once it has failed otherwise than by ErrRefused the client is of no more use.
func (c *Client) call(what command) error {
	if c.failed != nil {
		return c.failed
	}
	atomic.StoreUint64(word64(c.mem, offCommand), what.word())
	publish(word32(c.mem, offRequest), word32(c.mem, offServerSleeps), c.done+1)
	if c.failed = c.await(); c.failed != nil {
		return c.failed
	}
	text := func() string {
		t := c.mem[offText:][:textBytes]
		if i := bytes.IndexByte(t, 0); i >= 0 {
			t = t[:i]
		}
		return plain(string(t))
	}
	switch status := atomic.LoadUint32(word32(c.mem, offStatus)); status {
	case statusDone:
		turn := atomic.LoadUint32(word32(c.mem, offTurn))
		if uint64(turn) >= uint64(len(c.blocks)) {
			c.failed = fmt.Errorf("server %s: block %d: allowed 0 to %d", c.Name, turn, len(c.blocks)-1)
			return c.failed
		}
		c.turn = int(turn)
		return nil
	case statusRefused:
		return fmt.Errorf("server %s: %w: %s", c.Name, ErrRefused, text())
	default:
		c.failed = fmt.Errorf("server %s: status %d: %s", c.Name, status, text())
		return c.failed
	}
}

// lookSlice is the time between two looks whether the server is still there: much less than the second within which its death is reported, since
// on a busy machine each takes longer.
const lookSlice = 50 * time.Millisecond

// await waits for the server to be done, and looks now and then whether it is still there.
func (c *Client) await() error {
	deadline := time.Now().Add(c.limit)
	for {
		now, changed := c.answer.change(c.done, lookSlice)
		if changed {
			c.done++
			if now != c.done {
				return fmt.Errorf("server %s: epoch %d: allowed %d", c.Name, now, c.done)
			}
			return nil
		}
		if err := c.alive(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("server %s: no answer in %v", c.Name, c.limit)
		}
	}
}

// alive asks the socket whether the server is still there. A message is its last one.
func (c *Client) alive() error {
	_ = c.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	text := make([]byte, maxHello)
	n, err := c.conn.Read(text)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	var w welcome
	if n > 0 && json.Unmarshal(text[:n], &w) == nil && w.Error != "" {
		return fmt.Errorf("server %s (process %d): %w: %s", c.Name, c.PID, ErrGone, plain(w.Error))
	}
	return fmt.Errorf("server %s (process %d): %w: start it again with kvgym serve --name %s", c.Name, c.PID, ErrGone, c.Name)
}

// Close leaves the server, which then frees the range. Blocks and Ops are no more.
func (c *Client) Close() {
	if c.mem == nil {
		return
	}
	_ = c.conn.Close()
	unmapMemory(c.mem)
	c.mem, c.ops, c.pairs, c.blocks = nil, nil, nil, []vecenv.Buffers{{}}
	c.turn, c.failed = 0, fmt.Errorf("server %s: %w", c.Name, net.ErrClosed)
}
