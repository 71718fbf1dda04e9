package trace

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// A small tree, placed by hand.
func TestSessionsReconstructed(t *testing.T) {
	s := NewSessionizer()
	for i, c := range []struct {
		blocks  []uint64
		session uint64
		turn    int32
		known   int
		system  int
	}{
		{[]uint64{0, 1, 2}, 0, 0, 0, 0},
		{[]uint64{0, 3}, 1, 0, 1, 0},          // only the root is shared: a new session
		{[]uint64{0, 1, 2, 4}, 0, 1, 3, 0},    // holds all of the first
		{[]uint64{0, 1, 5}, 0, 2, 2, 0},       // two blocks are enough
		{[]uint64{0, 3, 6}, 1, 1, 2, 0},       // the root has had two sessions so far
		{[]uint64{0, 7}, 2, 0, 1, 0},          // the third
		{[]uint64{0, 8}, 3, 0, 1, 1},          // now block 0 is a system block
		{[]uint64{0, 1, 2, 4, 9}, 0, 3, 4, 1}, // one session however often it comes
		{[]uint64{1, 2}, 4, 0, 0, 0},          // the same ids after another prefix
		{[]uint64{1}, 5, 0, 1, 0},
		{[]uint64{0, 1, 2, 4, 9}, 0, 4, 5, 1}, // a resent prompt
	} {
		p := s.Place(&Record{Blocks: c.blocks, Parent: -1})
		require.Equal(t, c.session, p.Session, "row %d", i)
		require.Equal(t, c.turn, p.Turn, "row %d", i)
		require.Equal(t, c.turn > 0, p.FollowUp, "row %d", i)
		require.Equal(t, c.known, p.KnownBlocks, "row %d", i)
		require.Equal(t, c.system, p.SystemBlocks, "row %d", i)
		require.Equal(t, c.system > 0, p.SystemKey != 0, "row %d", i)
	}
	require.Equal(t, int64(6), s.Sessions())
	require.Equal(t, int64(12), s.DistinctBlocks())
}

// Ensure that the parent is the latest holder of the deepest known block, not
// of the first.
func TestLatestHolderIsTheParent(t *testing.T) {
	s := NewSessionizer()
	// Named sessions share blocks that reconstruction would have joined.
	for i, blocks := range [][]uint64{{1, 2, 3}, {1, 2, 4}, {1, 2, 5}} {
		p := s.Place(&Record{Session: uint64(100 + i), Blocks: blocks})
		require.Equal(t, uint64(i), p.Session)
		require.False(t, p.FollowUp)
	}
	require.Equal(t, uint64(0), s.Place(&Record{Blocks: []uint64{1, 2, 3, 6}}).Session)
	require.Equal(t, uint64(0), s.Place(&Record{Blocks: []uint64{1, 2, 7}}).Session, "the row before holds block 2 last")
	p := s.Place(&Record{Blocks: []uint64{1, 2, 4, 8}})
	require.Equal(t, uint64(1), p.Session)
	require.Equal(t, int32(1), p.Turn)
	require.Equal(t, 2, p.SystemBlocks)
}

// Ensure that a system key tells prefixes of different depth and id apart and
// stays the same for one prefix.
func TestSystemKey(t *testing.T) {
	s := NewSessionizer()
	key := func(blocks ...uint64) uint64 {
		return s.Place(&Record{Session: 1, Blocks: blocks}).SystemKey
	}
	for i := range uint64(3) {
		s.Place(&Record{Session: 10 + i, Blocks: []uint64{1, 2}})
		s.Place(&Record{Session: 10 + i, Blocks: []uint64{2}})
	}
	keys := []uint64{key(1, 9), key(1, 2, 9), key(2, 9)}
	require.NotContains(t, keys, uint64(0))
	slices.Sort(keys)
	require.Len(t, slices.Compact(keys), 3)
	require.Equal(t, key(1, 2, 10), key(1, 2, 11))
	require.Zero(t, key(77))
}

func TestSessionsNamedByTheFile(t *testing.T) {
	place := func(file string, o Options) (sessions []uint64, turns []int32) {
		r, err := Open(file, o)
		require.NoError(t, err)
		defer r.Close()
		all, err := readAll(r)
		require.NoError(t, err)
		s := NewSessionizer()
		for i := range all {
			p := s.Place(&all[i])
			sessions = append(sessions, p.Session)
			turns = append(turns, p.Turn)
		}
		return sessions, turns
	}
	sessions, turns := place("testdata/dynamo.jsonl", Options{})
	require.Equal(t, []uint64{0, 0, 1, 2, 2, 1}, sessions)
	require.Equal(t, []int32{0, 1, 0, 0, 1, 1}, turns)

	// Parents decide, not blocks; a parent the file lacks starts a session.
	sessions, turns = place("testdata/bailian.jsonl", Options{})
	require.Equal(t, []uint64{0, 1, 0, 2, 3, 4, 5, 0}, sessions)
	require.Equal(t, []int32{0, 0, 1, 0, 0, 0, 0, 2}, turns)

	sessions, turns = place("testdata/burstgpt.csv", Options{})
	require.Equal(t, []uint64{0, 1, 0, 2}, sessions)
	require.Equal(t, []int32{0, 0, 1, 0}, turns)

	sessions, _ = place("testdata/vidur.csv", Options{})
	require.Equal(t, []uint64{0, 1, 2, 3}, sessions)
}

// naive is the definition of Placement by search over all earlier requests.
type naive struct {
	blocks   [][]uint64
	sessions []uint64
	next     uint64
}

func (n *naive) place(blocks []uint64) Placement {
	var p Placement
	parent := -1
	for depth := 1; depth <= len(blocks); depth++ {
		holders := map[uint64]bool{}
		for i, b := range n.blocks {
			if len(b) >= depth && slices.Equal(b[:depth], blocks[:depth]) {
				holders[n.sessions[i]] = true
				if p.KnownBlocks = depth; depth > 1 {
					parent = i
				}
			}
		}
		if len(holders) >= 3 {
			p.SystemBlocks = depth
		}
	}
	if parent >= 0 {
		p.Session = n.sessions[parent]
	} else {
		p.Session = n.next
		n.next++
	}
	for _, s := range n.sessions {
		if s == p.Session {
			p.Turn++
		}
	}
	p.FollowUp = p.Turn > 0
	n.blocks = append(n.blocks, blocks)
	n.sessions = append(n.sessions, p.Session)
	return p
}

// Ensure that the incremental tree agrees with the definition on random trees,
// with ids that do and that do not imply their prefix.
func TestSessionsAgainstDefinition(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 7))
		s, n := NewSessionizer(), &naive{}
		for i := range 150 {
			var blocks []uint64
			for range 1 + r.IntN(6) {
				id := r.Uint64N(2 + seed%5)
				if seed%2 == 0 {
					id += 1000 * uint64(len(blocks))
				}
				blocks = append(blocks, id)
			}
			want := n.place(blocks)
			got := s.Place(&Record{Blocks: blocks})
			got.SystemKey = 0
			require.Equal(t, want, got, "seed %d row %d", seed, i)
		}
	}
}
