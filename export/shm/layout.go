package shm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"unsafe"

	"github.com/kvgym/kvgym/export"
	"github.com/kvgym/kvgym/vecenv"
)

// Version is that of the protocol: of the messages, the words and the order of the areas. It changes with each of them.
const Version = 2

// Magic is what a segment begins with.
const Magic = "kvgymshm"

// Offsets of what every segment has, in bytes. Lines that different sides write are 128 bytes apart, since processors fetch pairs of cache
// lines. All words are little-endian.
const (
	offMagic   = 0  // 8 bytes
	offVersion = 8  // uint32
	offHash    = 16 // 32 bytes, the layout's hash
	offSize    = 48 // uint64, of the segment

	offRequest            = 128 // uint32, the client's: epoch of its last request; the server waits on it
	offClientSleeps       = 132 // uint32, the client's: 1 while it may sleep
	offCommand            = 136 // uint64, the client's: what it wants; parseCommand
	offDone               = 256 // uint32, the server's: epoch of the last request that is done; the client waits on it
	offServerSleeps       = 260 // uint32, the server's: 1 while it may sleep
	offStatus             = 264 // uint32, the server's: how the request ended
	offTurn               = 268 // uint32, the server's: the block that holds the results
	offText               = 512 // what was wrong, ended by a zero byte
	textBytes             = 512
	offData               = 4096
	alignment             = 64
	maxSegment      int64 = 1 << 40
)

// MaxBlocks bounds the sets of tensors of a range.
const MaxBlocks = 64

// Segment tells where the areas of a segment stand, in bytes from its beginning. Tensors are contiguous, their shapes and types are those of
// the description; ops is uint8 [envs][slots], mask uint8 [envs], seeds uint64 [envs], identities uint64 [envs] (seeds), uint32 [envs]
// (environments) and uint32 [envs] (episodes) without a gap, pairs int32 [envs][per env][2], of which a step uses the first envs * k * 2
// values for k pairs an environment.
type Segment struct {
	Size        int64              `json:"size"`
	PairsPerEnv int                `json:"pairs_per_env"` // at most
	Ops         int64              `json:"ops"`
	Mask        int64              `json:"mask"`
	Seeds       int64              `json:"seeds"`
	Identities  int64              `json:"identities"`
	Pairs       int64              `json:"pairs"`
	Blocks      []map[string]int64 `json:"blocks"` // of every block: its tensors by name
}

// SegmentOf lays a range out. It is a function of the description and the number of blocks alone.
func SegmentOf(d *export.Description, blocks int) (s Segment, err error) {
	if blocks < 1 || blocks > MaxBlocks {
		return s, fmt.Errorf("blocks: %d: allowed 1 to %d", blocks, MaxBlocks)
	}
	at := int64(offData)
	place := func(bytes int64) (offset int64) {
		offset = at
		at = (at + bytes + alignment - 1) &^ (alignment - 1)
		return offset
	}
	envs := int64(d.Envs)
	s.PairsPerEnv = 2 * d.Slots // as many as a policy may need: compress each slot twice
	s.Ops = place(envs * int64(d.Slots))
	s.Mask = place(envs)
	s.Seeds = place(envs * 8)
	s.Identities = place(envs * 16)
	for range blocks {
		block := map[string]int64{}
		for _, t := range d.Tensors {
			block[t.Name] = place(tensorBytes(t))
		}
		s.Blocks = append(s.Blocks, block)
	}
	s.Pairs = place(envs * int64(s.PairsPerEnv) * 8) // last: its memory is only there once it is used
	s.Size = (at + pageBytes - 1) &^ (pageBytes - 1)
	if s.Size >= hugePage { // whole pages of that size, where the system has them for shared memory
		s.Size = (at + hugePage - 1) &^ (hugePage - 1)
	}
	if s.Size > maxSegment {
		return s, fmt.Errorf("segment: %d bytes: allowed %d", s.Size, maxSegment)
	}
	return s, nil
}

const (
	pageBytes = 4096
	hugePage  = 2 << 20
)

func tensorBytes(t export.Tensor) int64 {
	n := int64(1)
	for _, s := range t.Shape {
		n *= int64(s)
	}
	if t.DType == "float32" {
		n *= 4
	}
	return n
}

// Hash identifies what a row of a range looks like: a trainer made for one hash understands every server that shows the same, whatever its
// number of environments and ranges.
func Hash(d *export.Description) [32]byte {
	c := *d
	c.Envs, c.Groups, c.SIMD, c.SIMDLevels, c.Policies = 0, nil, "", nil, nil
	c.Tensors = make([]export.Tensor, len(d.Tensors))
	for i, t := range d.Tensors {
		c.Tensors[i] = export.Tensor{Name: t.Name, DType: t.DType, Shape: t.Shape[1:]}
	}
	text, err := json.Marshal(struct {
		Version int
		export.Description
	}{Version, c})
	if err != nil {
		panic(err) // numbers, strings and slices of them only
	}
	return sha256.Sum256(text)
}

// HashText is a hash as messages show it.
func HashText(h [32]byte) string { return hex.EncodeToString(h[:8]) }

// slice is n values of a segment as a slice, bounds checked.
func slice[T any](mem []byte, offset int64, n int) []T {
	var one T
	bytes := mem[offset:][:n*int(unsafe.Sizeof(one))]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(bytes))), n)
}

// identities are the three arrays of a segment's area of that name.
func (s *Segment) identities(mem []byte, envs int) (seeds []uint64, numbers, episodes []uint32) {
	n := int64(envs)
	return slice[uint64](mem, s.Identities, envs), slice[uint32](mem, s.Identities+8*n, envs), slice[uint32](mem, s.Identities+12*n, envs)
}

// buffers are the tensors of a block.
func buffers(mem []byte, d *export.Description, at map[string]int64) (b vecenv.Buffers) {
	floats := map[string]*[]float32{"obs": &b.Obs, "final_obs": &b.FinalObs, "reward": &b.Reward, "components": &b.Components, "metrics": &b.Metrics}
	bytes := map[string]*[]uint8{"obs": &b.ObsBytes, "final_obs": &b.FinalObsBytes, "terminated": &b.Terminated, "truncated": &b.Truncated, "mask": &b.Mask}
	for _, t := range d.Tensors {
		n := int(tensorBytes(t))
		if t.DType == "float32" {
			*floats[t.Name] = slice[float32](mem, at[t.Name], n/4)
		} else {
			*bytes[t.Name] = slice[uint8](mem, at[t.Name], n)
		}
	}
	return b
}
