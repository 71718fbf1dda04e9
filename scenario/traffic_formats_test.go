package scenario

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/kvgym/kvgym/kv"
	"github.com/stretchr/testify/require"
)

// arriving loads a trace that is shorter than an episode and returns all that arrives in its only window.
func arriving(t *testing.T, c TrafficConfig) (all []Sequence, e Episode) {
	c.Steps, c.SampleMillis = 4096, 1000
	src, err := LoadTraffic(c)
	require.NoError(t, err)
	src.Begin(Identity{Seed: 4}, &e)
	require.Zero(t, e.WindowStep)
	out := make([]Word, 300)
	for step := range 4097 {
		for _, w := range out[:arrive(src, &e, step, out)] {
			all = append(all, src.Decode(&e, w))
		}
	}
	require.EqualValues(t, len(all), src.Info().Requests)
	return all, e
}

// known is what rules 5.0 and 5.3 say of a line of a file.
type known struct {
	line     uint64
	typ      kv.BlockType
	priority uint8
	input    uint32
	output   uint16
}

// What each format tells becomes type and priority; what it does not comes from the line's number alone (5.3, 5.4).
func TestTrafficFormats(t *testing.T) {
	for file, want := range map[string][]known{
		"dynamo.jsonl": {{1, kv.Generation, 35, 1024, 100}, {2, kv.Context, 35, 1536, 50}, {3, kv.Generation, 35, 512, 10}, {4, kv.Ephemeral, 35, 1024, 5},
			{5, kv.Ephemeral, 35, 1025, 5}, {6, kv.Context, 35, 700, 2}},
		"bailian.jsonl": {{1, kv.Generation, 35, 40, 132}, {2, kv.Ephemeral, 25, 16, 3}, {3, kv.Context, 40, 64, 8}, {4, kv.Generation, 45, 1, 8},
			{5, kv.Generation, 45, 1, 8}, {6, kv.Reasoning, 50, 1, 8}, {7, kv.Generation, 45, 1, 8}, {8, kv.Context, 35, 1, 8}},
		"azure_2023.csv": {{2, kv.Generation, 35, 374, 44}, {3, kv.Generation, 35, 396, 109}, {4, kv.Generation, 35, 10, 1}},
		"burstgpt.csv":   {{2, kv.Generation, 35, 472, 18}, {3, kv.Ephemeral, 45, 1087, 230}, {4, kv.Context, 60, 417, 276}, {5, kv.Ephemeral, 20, 12, 3}},
		"vidur.csv":      {{2, kv.Generation, 35, 374, 44}, {3, kv.Generation, 35, 396, 109}, {4, kv.Generation, 35, 91, 16}, {5, kv.Generation, 35, 33, 12}},
	} {
		all, e := arriving(t, TrafficConfig{Path: filepath.Join("..", "trace", "testdata", file), StepMillis: 10_000, DecodeRate: 3})
		require.Len(t, all, len(want), file)
		for i, w := range want {
			q := all[i]
			private := w.input
			if pages := modelled(w, strings.HasSuffix(file, ".csv")); pages > 0 {
				require.EqualValues(t, pages, e.PrefixPages[q.Prefix], "%s:%d", file, w.line)
				private -= 128 * pages
			} else {
				require.Zero(t, q.Prefix, "%s:%d", file, w.line)
			}
			require.Equal(t, Sequence{PromptTokens: private, OutputTokens: w.output, RateTokens: 30, Priority: w.priority, Prefix: q.Prefix, Type: w.typ,
				Steady: true, Codes: uint8(mix(w.line)>>4&3) << 6}, q, "%s:%d", file, w.line)
		}
	}
}

// modelled is rule 5.4 for a request without block ids: the pages of its prefix.
func modelled(w known, applies bool) uint32 {
	x := mix(w.line)
	pages := uint32(4 + 2*(x&3))
	if !applies || x>>2&3 == 0 || pages*128 >= w.input {
		return 0
	}
	return pages
}

// Tenants that are modelled share by name, not by size or by place.
func TestModelledTenants(t *testing.T) {
	rows := "arrived_at,num_prefill_tokens,num_decode_tokens\n"
	for k := range 200 {
		rows += strconv.Itoa(k) + ",5000,10\n"
	}
	for k := range 20 {
		rows += strconv.Itoa(200+k) + ",1024,10\n" // a prefix of 8 pages would be all of it
	}
	all, e := arriving(t, TrafficConfig{Path: write(t, "tenants.csv", []byte(rows))})
	require.EqualValues(t, 4, e.NumPrefixes)
	ids := map[uint64]uint8{}
	for i, q := range all {
		x := mix(uint64(i) + 2)
		input := uint64(5000)
		if i >= 200 {
			input = 1024
		}
		if x>>2&3 == 0 || input == 1024 && x&3 >= 2 {
			require.Zero(t, q.Prefix)
			continue
		}
		if _, ok := ids[x&3]; !ok {
			ids[x&3] = uint8(len(ids) + 1)
		}
		require.Equal(t, ids[x&3], q.Prefix, "line %d", i+2)
		require.EqualValues(t, input-128*(4+2*(x&3)), q.PromptTokens)
	}
}

// Blocks smaller than a page: the prefix is cut to whole pages, and only the fourth session to bring it knows that it is
// shared. A prompt of nothing but shared blocks keeps its last block private, so its prefix is another one.
func TestTrafficSmallBlocks(t *testing.T) {
	rows := ""
	for k := range 7 {
		ids := "1"
		for b := 2; b <= 20; b++ {
			ids += "," + strconv.Itoa(b)
		}
		tokens := 320
		if k < 6 {
			ids, tokens = ids+","+strconv.Itoa(100+k), 336
		}
		rows += fmt.Sprintf(`{"chat_id": %d, "parent_chat_id": -1, "timestamp": %d, "input_length": %d, "output_length": 5, "type": "text", "turn": 1, "hash_ids": [%s]}`+"\n",
			k, k, tokens, ids)
	}
	all, e := arriving(t, TrafficConfig{Path: write(t, "bailian.jsonl", []byte(rows))})
	require.EqualValues(t, 2, e.NumPrefixes)
	require.Equal(t, [2]uint16{20 * 16 / 128, 19 * 16 / 128}, [2]uint16(e.PrefixPages[1:3]))
	want := [][2]uint32{{0, 336}, {0, 336}, {0, 336}, {1, 80}, {1, 80}, {1, 80}, {2, 64}}
	for i, q := range all {
		require.Equal(t, want[i], [2]uint32{uint32(q.Prefix), q.PromptTokens}, "session %d", i)
	}
}

// A source is safe for several goroutines, each with its own Episode.
func TestTrafficConcurrent(t *testing.T) {
	src := smallTraffic(t)
	play := func() (all []Episode) {
		for n := range uint32(50) {
			var e Episode
			src.Begin(Identity{Seed: 6, Env: n}, &e)
			for i := range int(e.NumInitial) {
				src.Initial(&e, i)
			}
			for step := range 16 {
				arrive(src, &e, step, nil)
			}
			all = append(all, e)
		}
		return all
	}
	want := play()
	var wg sync.WaitGroup
	got := make([][]Episode, 4)
	for k := range got {
		wg.Go(func() { got[k] = play() })
	}
	wg.Wait()
	for _, g := range got {
		require.Equal(t, want, g)
	}
}

func smallTraffic(t *testing.T) *Traffic {
	src, err := LoadTraffic(TrafficConfig{Path: filepath.Join("..", "vecenv", "testdata", "traffic.jsonl")})
	require.NoError(t, err)
	return src
}

// Whatever bytes an Episode and a word hold: what CheckEpisode lets through can be used, and gives prompts within bounds.
func TestHostileEpisodes(t *testing.T) {
	const seed = 11
	r := rand.New(rand.NewPCG(seed, 0))
	for _, src := range []Source{synthetic(t, 64, 15, Hard), smallTraffic(t)} {
		passed := 0
		for range 5_000 {
			var e Episode
			src.Begin(Identity{Env: r.Uint32N(50)}, &e)
			raw, err := binary.Append(nil, binary.LittleEndian, &e)
			require.NoError(t, err)
			for range 1 + r.IntN(3) {
				raw[r.IntN(len(raw))] = byte(r.Uint32N(256) >> r.IntN(8))
			}
			_, err = binary.Decode(raw, binary.LittleEndian, &e)
			require.NoError(t, err)
			if src.CheckEpisode(&e) != nil {
				continue
			}
			passed++
			out := make([]Word, 8)
			for step := range 16 {
				n := arrive(src, &e, step, out)
				for _, w := range append(out[:min(n, 8)], Word(r.Uint64())) {
					q := src.Decode(&e, w)
					tokens, prefix := src.Demand(&e, w)
					require.Equal(t, [2]uint32{q.PromptTokens, uint32(q.Prefix)}, [2]uint32{tokens, uint32(prefix)})
					require.True(t, tokens >= 1 && tokens <= maxPromptTokens, "%d tokens, seed %d", tokens, seed)
				}
			}
		}
		require.Greater(t, passed, 500)
	}
}

// Reading stops when nobody waits for it any more.
func TestLoadTrafficCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := LoadTrafficContext(ctx, TrafficConfig{Path: filepath.Join("..", "vecenv", "testdata", "traffic.jsonl")})
	require.ErrorIs(t, err, context.Canceled)
}
