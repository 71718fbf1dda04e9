package trace

// Sessionizer assigns each record to a session and measures the prefix it
// shares with earlier ones, from the past only. Give it the records of one file
// in order. Its memory grows with the distinct blocks and with the sessions
// that have ids or names; records with neither cost nothing. It is not safe for
// concurrent use.
//
// The session of a record is, by the first rule that applies:
//
//  1. Record.Session is not 0: the session of that name.
//  2. HasChat: the session of the chat named by Parent; a new one if Parent is
//     -1 or unknown.
//  3. It has Blocks: if its known prefix is longer than one block, the session
//     of the latest earlier request that holds the deepest known block; else a
//     new one. One block is not enough, because all requests may share a root.
//  4. A new session.
//
// Rule 3 is as good as the ids: where several users share a system prompt of
// more than one block, their requests fall into one session.
type Sessionizer struct {
	nodes    map[uint64]node // by chained hash of (parent node, id)
	named    map[uint64]int64
	chats    map[int64]int64
	turns    map[int64]int32 // requests so far of sessions that can go on
	sessions int64
	path     []pathNode
}

// systemSessions is how many distinct sessions make a block a system block.
const systemSessions = 3

// node is a block after a certain prefix.
type node struct {
	last int64 // session of the latest request that holds it
	// The first sessions that held it, exact up to systemSessions.
	seen  [systemSessions]int64
	count uint8
}

type pathNode struct {
	key  uint64
	node node
}

// Placement is what the past says of a record.
type Placement struct {
	// Session is the dense number of the session, from 0 in order of appearance.
	Session uint64
	// Turn is 0 for the first request of the session.
	Turn int32
	// FollowUp is Turn > 0.
	FollowUp bool
	// KnownBlocks is the length of the longest prefix of Blocks that an earlier
	// request had: the prefix hit of an infinite cache. A partial last block
	// counts as a block.
	KnownBlocks int
	// SystemBlocks is the length of the longest prefix whose every block at
	// least three distinct sessions have used before this request.
	SystemBlocks int
	// SystemKey identifies that prefix: a hash of depth and id of its deepest
	// block; 0 if and only if SystemBlocks is 0.
	SystemKey uint64
}

// NewSessionizer returns a Sessionizer that has seen nothing.
func NewSessionizer() *Sessionizer {
	return &Sessionizer{
		nodes: make(map[uint64]node),
		named: make(map[uint64]int64),
		chats: make(map[int64]int64),
		turns: make(map[int64]int32),
	}
}

// Place places the next record of the file. It keeps nothing of rec.
func (s *Sessionizer) Place(rec *Record) Placement {
	var p Placement
	s.walk(rec.Blocks, &p)
	session, goesOn := s.session(rec, p.KnownBlocks)
	p.Session = uint64(session)
	if goesOn {
		p.Turn = s.turns[session]
		p.FollowUp = p.Turn > 0
		s.turns[session] = p.Turn + 1
	}
	s.record(session)
	return p
}

// walk looks up the path of blocks into s.path and measures the known part.
func (s *Sessionizer) walk(blocks []uint64, p *Placement) {
	s.path = s.path[:0]
	var key uint64
	known, system := true, true
	for i, id := range blocks {
		// Keyed by parent and id, so that formats whose ids do not imply the
		// prefix before them are read right too.
		key = mix(key ^ mix(id+golden))
		n, ok := node{}, false
		if known {
			n, ok = s.nodes[key]
			known = ok
		}
		if known {
			p.KnownBlocks++
		}
		if system = system && n.count >= systemSessions; system {
			p.SystemBlocks++
			p.SystemKey = max(mix(uint64(i+1)^mix(id+golden)), 1)
		}
		s.path = append(s.path, pathNode{key, n})
	}
}

// session returns the record's session and whether it can have more requests.
func (s *Sessionizer) session(rec *Record, known int) (number int64, goesOn bool) {
	switch {
	case rec.Session != 0:
		n, ok := s.named[rec.Session]
		if !ok {
			n = s.open()
			s.named[rec.Session] = n
		}
		return n, true
	case rec.HasChat:
		n, ok := s.chats[rec.Parent]
		if !ok || rec.Parent < 0 {
			n = s.open()
		}
		s.chats[rec.ChatID] = n
		return n, true
	case len(rec.Blocks) > 0:
		if known > 1 {
			return s.path[known-1].node.last, true
		}
		return s.open(), true
	}
	return s.open(), false
}

func (s *Sessionizer) open() int64 {
	s.sessions++
	return s.sessions - 1
}

// record marks the walked path as used by session.
func (s *Sessionizer) record(session int64) {
	for i := range s.path {
		n := &s.path[i].node
		n.last = session
		if n.count < systemSessions && !n.seenBy(session) {
			n.seen[n.count] = session
			n.count++
		}
		s.nodes[s.path[i].key] = *n
	}
}

func (n *node) seenBy(session int64) bool {
	for _, s := range n.seen[:n.count] {
		if s == session {
			return true
		}
	}
	return false
}

// Sessions returns the number of sessions seen so far.
func (s *Sessionizer) Sessions() int64 { return s.sessions }

// DistinctBlocks returns the number of distinct blocks seen so far; the same id
// after another prefix is another block.
func (s *Sessionizer) DistinctBlocks() int64 { return int64(len(s.nodes)) }

// golden is the increment of splitmix64.
const golden = 0x9e3779b97f4a7c15

// mix is the output function of splitmix64, a bijection of 64-bit numbers. With
// chained keys of this quality two of 10^8 blocks collide with probability 3e-4.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
