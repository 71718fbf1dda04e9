package scenario

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/trace"
	"github.com/stretchr/testify/require"
)

// plain is a request as the rules see it, made from a Mooncake file by the slow and obvious road.
type plain struct {
	step, input, output, session int
	pages                        int // of its shared prefix
	prefix                       uint64
	followUp                     bool
	pause                        uint8
}

// readPlain follows rules 5.0 to 5.4 for a Mooncake file, comparing whole prefixes as text.
func readPlain(t *testing.T, path string, stepMillis int) (out []plain) {
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	last, users, turns := map[string]int{}, map[string]map[int]bool{}, map[int]int{}
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<24)
	first, sessions := -1.0, 0
	for line := uint64(1); sc.Scan(); line++ {
		var row struct {
			Timestamp     float64
			Input_length  int
			Output_length int
			Hash_ids      []uint64
		}
		require.NoError(t, json.Unmarshal(sc.Bytes(), &row))
		if first < 0 {
			first = row.Timestamp
		}
		q := plain{step: int(row.Timestamp-first) / stepMillis, input: row.Input_length, output: min(row.Output_length, 65535), pause: uint8(mix(line) >> 4 & 3)}
		known, system := 0, 0
		var paths []string
		path := ""
		for i, id := range row.Hash_ids {
			path += fmt.Sprint(id, " ")
			paths = append(paths, path)
			if _, ok := last[path]; ok && known == i {
				known++
			}
			if len(users[path]) >= 3 && system == i {
				system++
			}
		}
		if known > 1 {
			q.session = last[paths[known-1]]
		} else {
			q.session = sessions
			sessions++
		}
		q.followUp = turns[q.session] > 0
		turns[q.session]++
		for _, p := range paths {
			if users[p] == nil {
				users[p] = map[int]bool{}
			}
			users[p][q.session], last[p] = true, q.session
		}
		k := min(system, (q.input-1)/512)
		if q.pages = k * 4; k > 0 {
			for _, id := range row.Hash_ids[:k] {
				q.prefix = mix(q.prefix + id + 1)
			}
		}
		out = append(out, q)
	}
	return out
}

func (q *plain) life(rate int) int { return 2 + (q.output+rate-1)/rate }

// TestTrafficWindows compares episodes of a trace with rules 5.1 to 5.9 computed again from the file.
func TestTrafficWindows(t *testing.T) {
	path := filepath.Join("..", "vecenv", "testdata", "traffic.jsonl")
	for _, c := range []TrafficConfig{{}, {Slots: 16, Steps: 5, DecodeRate: 7}, {Slots: 32, Steps: 20, DecodeRate: 90, SampleMillis: 500}, {Steps: 60, SampleMillis: 1000},
		{Steps: 40, StepMillis: 250}, {StepMillis: 33, DecodeRate: 20}, {StepMillis: 4000, DecodeRate: 9999, SampleMillis: 999}} {
		c.Path, c.Difficulty = path, Medium
		requireWindows(t, c)
	}
}

// Very short traces, ones with requests that outlive every window, and windows that reach far beyond the end.
func TestTrafficShort(t *testing.T) {
	one := `{"timestamp": 7, "input_length": 1, "output_length": 1, "hash_ids": [9]}` + "\n"
	long := ""
	for k := range 12 {
		long += fmt.Sprintf(`{"timestamp": %d, "input_length": %d, "output_length": %d, "hash_ids": [1, %d]}`+"\n", k*700, 513+k, 1+k*9000, k+2)
	}
	for _, rows := range []string{one, strings.Repeat(one, 40), long} {
		for _, c := range []TrafficConfig{{SampleMillis: 1000}, {Steps: 1, SampleMillis: 1000}, {Steps: 300, SampleMillis: 1000}, {Steps: 2, StepMillis: 10, DecodeRate: 50, SampleMillis: 1000},
			{Steps: 4, DecodeRate: 10_000, StepMillis: 3_600_000, SampleMillis: 1000}, {Steps: 9}, {Steps: 5, SampleMillis: 1}} {
			c.Path, c.Difficulty = write(t, "short.jsonl", []byte(rows)), Medium
			requireWindows(t, c)
		}
	}
}

// Crowded traffic: more prefixes than an episode has ids for, and more live requests than become initial sequences.
func TestTrafficCrowded(t *testing.T) {
	var text bytes.Buffer
	require.NoError(t, trace.Synthesize(&text, trace.SynthConfig{Requests: 1500, Seed: 3, Rate: 40, Tenants: 20}))
	src := requireWindows(t, TrafficConfig{Path: write(t, "crowd.jsonl", text.Bytes()), Slots: 16, SampleMillis: 1000, Difficulty: Medium})
	var e Episode
	src.Begin(Identity{Seed: 9, Env: 1}, &e)
	for i := range int(e.NumInitial) {
		src.Initial(&e, i)
	}
	require.Greater(t, e.WindowStep, uint32(4))
	require.Greater(t, e.NumInitial, uint16(40), "most of the last 64 requests are live")
	require.EqualValues(t, kv.MaxPrefixes, e.NumPrefixes)
}

func requireWindows(t *testing.T, c TrafficConfig) *Traffic {
	src, err := LoadTraffic(c)
	require.NoError(t, err)
	require.NoError(t, c.fill())
	rate := min(65535, max(1, c.DecodeRate*c.StepMillis/1000))
	kept := samplePlain(readPlain(t, c.Path, c.StepMillis), c.Slots, rate, c.SampleMillis)
	require.EqualValues(t, len(kept), src.Info().Requests)
	for n := range uint32(60) {
		requireWindow(t, src, kept, Identity{Seed: 9, Env: n}, c.Slots, c.Steps, rate)
	}
	return src
}

// samplePlain is rule 5.5.
func samplePlain(all []plain, slots, rate, sample int) (kept []plain) {
	if sample == 0 {
		live := 0
		for i := range all {
			live += all[i].life(rate) - 1
		}
		sample = min(1000, max(1, 1000*(all[len(all)-1].step+1)*slots/2/live))
	}
	for _, q := range all {
		if mix(uint64(q.session)+1)%1000 < uint64(sample) {
			kept = append(kept, q)
		}
	}
	if kept == nil {
		return all // a share too small for any session keeps all of them
	}
	return kept
}

func requireWindow(t *testing.T, src *Traffic, kept []plain, id Identity, slots, steps, rate int) {
	var e Episode
	src.Begin(id, &e)
	span := kept[len(kept)-1].step + 1
	hi, _ := bits.Mul64(draw(id, 6, 0, 0), uint64(max(1, span-steps)))
	s0 := int(hi)
	require.EqualValues(t, s0, e.WindowStep)
	demand, tokens := 0, 0
	for i := range kept {
		q := &kept[i]
		private := int(kv.Pages(uint32(q.input+q.output))) - q.pages
		for s := s0; s <= s0+steps; s++ {
			if s > q.step && s < q.step+q.life(rate) && s <= span+steps {
				demand += private
			}
			if g := s - q.step - 3; s > s0 && g >= 0 {
				tokens += max(0, min(rate, q.output-g*rate))
			}
		}
	}
	capacity := 4 * max(slots, demand*8/(10*(steps+1)))
	require.EqualValues(t, capacity, e.CapacityQP)
	permille := 750 + bitsOf(draw(id, 1, 0, 0), 16, 16)*151>>16
	require.EqualValues(t, uint64(capacity)*permille/1000, e.BudgetQP)
	require.EqualValues(t, max(1, tokens), e.TokenNorm)

	ids := prefixIDs{}
	var want []InitialSequence
	before := 0
	for before < len(kept) && kept[before].step < s0 {
		before++
	}
	for i := max(0, before-4*slots); i < before; i++ {
		if q := &kept[i]; s0 < q.step+q.life(rate) {
			in := InitialSequence{Sequence: ids.sequence(q, rate), Phase: kv.Decode, Hotness: 63, DoneTokens: uint16(rate * max(0, s0-q.step-2))}
			if s0 == q.step+1 {
				in.Phase = kv.Prefill
			}
			want = append(want, in)
		}
	}
	require.EqualValues(t, len(want), e.NumInitial)
	for i := range want {
		require.Equal(t, want[i], src.Initial(&e, i))
	}
	requireArrivals(t, src, &e, kept[before:], ids, s0, steps, rate)
}

func requireArrivals(t *testing.T, src *Traffic, e *Episode, rest []plain, ids prefixIDs, s0, steps, rate int) {
	out := make([]Word, 2) // fewer than arrive: the others must be counted, and their prefixes numbered, all the same
	for step := range steps + 1 {
		n := arrive(src, e, step, out)
		for k := 0; len(rest) > 0 && rest[0].step == s0+step; k++ {
			want := ids.sequence(&rest[0], rate)
			if k < len(out) {
				require.Equal(t, want, src.Decode(e, out[k]))
				tokens, prefix := src.Demand(e, out[k])
				require.Equal(t, [2]uint32{want.PromptTokens, uint32(want.Prefix)}, [2]uint32{tokens, uint32(prefix)})
			}
			rest = rest[1:]
			n--
		}
		require.Zero(t, n, "step %d", step)
	}
	require.NoError(t, src.CheckEpisode(e))
}

// prefixIDs is rule 5.8.
type prefixIDs map[uint64]uint8

func (p prefixIDs) sequence(q *plain, rate int) Sequence {
	s := Sequence{PromptTokens: uint32(q.input), OutputTokens: uint16(q.output), RateTokens: uint16(rate), Priority: 35, Type: kv.Generation, Steady: true, Codes: q.pause << 6}
	if q.followUp {
		s.Type = kv.Context
	}
	if q.pages == 0 {
		return s
	}
	id, ok := p[q.prefix]
	if !ok && len(p) < kv.MaxPrefixes {
		id = uint8(len(p) + 1)
		p[q.prefix] = id
	}
	if id != 0 {
		s.Prefix = id
		s.PromptTokens -= uint32(128 * q.pages)
	}
	return s
}

func write(t *testing.T, name string, content []byte) string {
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

// Compressed files are read as they are, and are the same traffic.
func TestTrafficCompressed(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "vecenv", "testdata", "traffic.jsonl"))
	require.NoError(t, err)
	var gz, zs bytes.Buffer
	w := gzip.NewWriter(&gz)
	_, err = w.Write(text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	z, err := zstd.NewWriter(&zs)
	require.NoError(t, err)
	_, err = z.Write(text)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	var want Episode
	for k, content := range [][]byte{text, gz.Bytes(), zs.Bytes()} {
		src, err := LoadTraffic(TrafficConfig{Path: write(t, "traffic", content), Difficulty: Hard})
		require.NoError(t, err)
		var e Episode
		src.Begin(Identity{Seed: 1}, &e)
		if k == 0 {
			want = e
		}
		require.Equal(t, want, e)
	}
	_, err = LoadTraffic(TrafficConfig{Path: write(t, "traffic", gz.Bytes()[:len(gz.Bytes())/2])})
	require.ErrorContains(t, err, "truncated")
}

// Without block ids kvgym models tenants; very short and very long requests are cut, and windows may reach beyond the end.
func TestTrafficWithoutBlocks(t *testing.T) {
	rows := "arrived_at,num_prefill_tokens,num_decode_tokens\n"
	for k := range 40 {
		rows += fmt.Sprintf("%d.5,%d,%d\n", k/4, 1+k*k*k*37, 1+k*2500)
	}
	rows += "11,2000000000,2000000000\n"
	src, err := LoadTraffic(TrafficConfig{Path: write(t, "short.csv", []byte(rows)), Steps: 100, Difficulty: Hard, SampleMillis: 1000})
	require.NoError(t, err)
	info := src.Info()
	require.Equal(t, "modelled", info.Sharing)
	require.EqualValues(t, 1, info.Windows)
	require.EqualValues(t, 41, info.Requests)
	var e Episode
	src.Begin(Identity{}, &e)
	require.Zero(t, e.WindowStep)
	require.LessOrEqual(t, e.CapacityQP, uint32(1<<26))
	out, shared, longest, most := make([]Word, 64), 0, uint32(0), uint16(0)
	for step := range 101 {
		for _, w := range out[:arrive(src, &e, step, out)] {
			q := src.Decode(&e, w)
			require.GreaterOrEqual(t, q.PromptTokens, uint32(1))
			longest, most = max(longest, q.PromptTokens), max(most, q.OutputTokens)
			if q.Prefix != 0 {
				shared++
				require.Contains(t, []uint16{4, 6, 8, 10}, e.PrefixPages[q.Prefix])
			}
		}
	}
	require.Positive(t, shared)
	require.LessOrEqual(t, longest, uint32(1<<24))
	require.Greater(t, longest, uint32(1<<24-2000))
	require.EqualValues(t, 65535, most)
}

func TestTrafficErrors(t *testing.T) {
	good := `{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}` + "\n"
	bad := good + `{"timestamp": 5, "input_length": 600, "output_length": 0, "hash_ids": [1, 2]}` + "\n" + good[:20]
	path := write(t, "bad.jsonl", []byte(bad))
	_, err := LoadTraffic(TrafficConfig{Path: path})
	require.ErrorContains(t, err, "bad.jsonl:2: output_length: 0: allowed 1 to 2147483647")
	src, err := LoadTraffic(TrafficConfig{Path: path, SkipBadLines: true})
	require.NoError(t, err)
	require.EqualValues(t, 2, src.Info().BadLines)
	require.Contains(t, src.Info().FirstBadLine, "bad.jsonl:2:")
	for says, cfg := range map[string]TrafficConfig{
		"no such file":                     {Path: path + ".missing"},
		"slots: 5":                         {Path: path, Slots: 5},
		"difficulty: 7":                    {Path: path, Difficulty: 7},
		"trace step milliseconds: 4000000": {Path: path, StepMillis: 4_000_000},
		"trace decode rate: -1: allowed 1 to 10000":    {Path: path, DecodeRate: -1},
		"trace sample permille: 1001: allowed 0 to 10": {Path: path, SampleMillis: 1001},
		"cannot detect the format":                     {Path: write(t, "noise", []byte("a,b\n1,2\n"))},
	} {
		_, err := LoadTraffic(cfg)
		require.ErrorContains(t, err, says)
	}
	_, err = LoadTraffic(TrafficConfig{Path: write(t, "empty.csv", []byte("arrived_at,num_prefill_tokens,num_decode_tokens\n"))})
	require.ErrorContains(t, err, "0 requests: allowed at least 1")
	_, err = LoadTraffic(TrafficConfig{Path: write(t, "sparse.csv", []byte("arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n9999999999,1,1\n"))})
	require.ErrorContains(t, err, "allowed below 67108864 steps: take a longer step")
}

// Settings that change episodes change the fingerprint; episodes from outside are checked.
func TestTrafficFingerprint(t *testing.T) {
	path := filepath.Join("..", "vecenv", "testdata", "traffic.jsonl")
	base := TrafficConfig{Path: path}
	seen := map[string]bool{}
	for _, change := range []func(*TrafficConfig){func(*TrafficConfig) {}, func(c *TrafficConfig) { c.Slots = 32 }, func(c *TrafficConfig) { c.Steps = 9 },
		func(c *TrafficConfig) { c.Difficulty = Hard }, func(c *TrafficConfig) { c.StepMillis = 500 }, func(c *TrafficConfig) { c.DecodeRate = 20 },
		func(c *TrafficConfig) { c.SampleMillis = 100 }, func(c *TrafficConfig) { c.SkipBadLines = true }} {
		cfg := base
		change(&cfg)
		src, err := LoadTraffic(cfg)
		require.NoError(t, err)
		require.False(t, seen[src.Fingerprint()], src.Fingerprint())
		seen[src.Fingerprint()] = true
	}
	src, err := LoadTraffic(base)
	require.NoError(t, err)
	hard, err := src.WithDifficulty(Hard)
	require.NoError(t, err)
	direct, err := LoadTraffic(TrafficConfig{Path: path, Difficulty: Hard})
	require.NoError(t, err)
	require.Equal(t, direct.Fingerprint(), hard.Fingerprint())
	_, err = src.WithDifficulty(9)
	require.ErrorContains(t, err, "difficulty: 9")
	for _, change := range []func(*Episode){func(e *Episode) { e.WindowStep = 1 << 30 }, func(e *Episode) { e.Cursor = 1 << 30 }, func(e *Episode) { e.NumPrefixes = 8 },
		func(e *Episode) { e.NumPrefixes, e.PrefixKeys[1] = 1, 1<<31 }, func(e *Episode) { e.NumPrefixes, e.PrefixKeys[1], e.PrefixPages[1] = 1, 1, 60000 }} {
		var e Episode
		src.Begin(Identity{}, &e)
		require.NoError(t, src.CheckEpisode(&e))
		change(&e)
		require.Error(t, src.CheckEpisode(&e))
	}
}

// TestRealTraffic loads real traces and reports what they give.
func TestRealTraffic(t *testing.T) {
	dir := os.Getenv("KVGYM_TRACES")
	if dir == "" {
		t.Skip("KVGYM_TRACES names no folder with real traces")
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".jsonl") && !strings.HasSuffix(entry.Name(), ".csv") {
			continue
		}
		src, err := LoadTraffic(TrafficConfig{Path: filepath.Join(dir, entry.Name())})
		require.NoError(t, err)
		i := src.Info()
		t.Logf("%s: %s, %d of %d requests, %d of %d sessions, %d windows, hit share %.4f", entry.Name(), i.Format, i.Requests, i.FileRequests, i.Sessions, i.FileSessions, i.Windows, i.HitShare)
		require.InDelta(t, 32, i.MeanLive, 4, "half of the slots are busy")
		require.Zero(t, i.BadLines)
		if i.Format == string(trace.Mooncake) {
			require.Equal(t, "blocks", i.Sharing)
			require.Less(t, i.Sessions, i.Requests)
		}
		if entry.Name() == "mooncake_conversation.jsonl" {
			whole, err := LoadTraffic(TrafficConfig{Path: i.Path, SampleMillis: 1000})
			require.NoError(t, err)
			require.EqualValues(t, 7_373, whole.Info().Sessions)
			require.Equal(t, 54_098_411.0/144_793_823, whole.Info().HitShare, "of an infinite prefix cache")
		}
	}
}

// In a closed loop every request of a trace is played at most once: as an initial sequence, as a turn of one, or as an arrival.
func TestClosedLoopPlaysOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "busy.jsonl")
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, trace.Synthesize(f, trace.SynthConfig{Requests: 1500, Seed: 1, Rate: 7, Tenants: 3}))
	require.NoError(t, f.Close())
	p := kv.Presets()[0]
	for _, c := range []TrafficConfig{{SampleMillis: 1000}, {}, {Slots: 16, DecodeRate: 3, SampleMillis: 1000}} {
		c.Path, c.Serving, c.Closed = path, &p, true
		src, err := LoadTraffic(c)
		require.NoError(t, err)
		turns := 0
		for env := range uint32(300) {
			var e Episode
			src.Begin(Identity{Seed: 1, Env: env}, &e)
			var sessions []Sequence
			for i := range int(e.NumInitial) {
				sessions = append(sessions, src.Initial(&e, i).Sequence)
			}
			words := make([]Word, 4096)
			for step := range src.Shape().Steps + 1 {
				n := arrive(src, &e, step, words)
				for _, w := range words[:n] {
					sessions = append(sessions, src.Decode(&e, w))
				}
			}
			played := map[uint32]bool{}
			for _, q := range sessions {
				for ref, ok := q.Ref, true; ok && ref != refLast; turns++ {
					require.False(t, played[ref], "env %d: request %d is played twice", env, ref)
					played[ref] = true
					var turn Turn
					turn, ok = src.Next(&e, ref)
					ref = turn.Ref
				}
			}
		}
		require.Greater(t, turns, 300)
	}
}
