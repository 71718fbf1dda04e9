package shm

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvgym/kvgym/export"
)

func TestParseCommand(t *testing.T) {
	for _, c := range []command{{kind: cmdStep}, {kind: cmdPairs}, {kind: cmdPairs, pairs: 128}, {kind: cmdReset}, {kind: cmdReset, mask: true},
		{kind: cmdReset, seeds: true}, {kind: cmdReset, mask: true, seeds: true, block: 1}, {kind: cmdStep, block: 2}, {kind: cmdPairs, block: 1, pairs: 3},
		{kind: cmdIdentities}} {
		got, err := parseCommand(c.word(), 128, 2)
		require.NoError(t, err)
		require.Equal(t, c, got)
	}
	for w, says := range map[uint64]string{0: "command: 0: allowed 1", 5: "command: 5: allowed", 1 | 1<<8: "flags: 0x1", 3 | 4<<8: "flags: 0x4", 1 | 1<<24: "bits 24 to 31", 1 | 3<<16: "block: 3: allowed 0 (the next) to 2",
		3 | 255<<16: "block: 255", 4 | 1<<16: "block: 1", 4 | 1<<8: "flags: 0x1", 1 | 1<<32: "number: 1", 3 | 5<<32: "number: 5", 2 | 129<<32: "pairs: 129", 2 | 0xFFFFFFFF<<32: "pairs: 4294967295", ^uint64(0): "command: 255"} {
		_, err := parseCommand(w, 128, 2)
		require.ErrorContains(t, err, says)
	}
}

// Whatever a client writes, what comes out can be used without another look.
func FuzzCommand(f *testing.F) {
	f.Add(uint64(1), 128, 1)
	f.Add(uint64(2|128<<32), 128, 2)
	f.Add(uint64(1|3<<16), 128, 3)
	f.Add(^uint64(0), 0, 1)
	f.Fuzz(func(t *testing.T, w uint64, most, blocks int) {
		if most < 0 || most > 512 || blocks < 1 || blocks > MaxBlocks {
			return
		}
		c, err := parseCommand(w, most, blocks)
		if err != nil {
			return
		}
		if c.kind < cmdStep || c.kind > cmdIdentities || c.pairs < 0 || c.pairs > most || c.block < 0 || c.block > blocks {
			t.Fatalf("%#x gave %+v", w, c)
		}
		if c.word() != w {
			t.Fatalf("%#x gave %+v, which is %#x", w, c, c.word())
		}
	})
}

func TestParseHello(t *testing.T) {
	h, err := parseHello([]byte(`{"version":2,"range":3,"layout":"abc"}`))
	require.NoError(t, err)
	require.Equal(t, 3, *h.Range)
	require.Equal(t, "abc", h.Layout)
	h, err = parseHello([]byte(`{"version":2}`))
	require.NoError(t, err)
	require.Nil(t, h.Range)
	for text, says := range map[string]string{"": "no JSON object with a version", "{}": "no JSON object with a version", `[1]`: "no JSON object",
		`{"version":1,"wonders":true}`: "version: 1: allowed 2: use a client and a server of the same release", `{"version":2,"wonders":true}`: `unknown field "wonders"`,
		`{"version":2} {}`: "no JSON object", `{"version":2,"range":"x"}`: "hello: json", `{"version":2,"range":1e99}`: "hello: json",
		`{"version":2,"layout":"` + strings.Repeat("x", maxHello) + `"}`: "more than 4096 bytes"} {
		_, err := parseHello([]byte(text))
		require.ErrorContains(t, err, says, text)
		require.NotContains(t, err.Error(), "\n")
	}
}

func FuzzHello(f *testing.F) {
	for _, s := range []string{`{"version":2}`, `{"version":2,"range":0,"layout":"799c8a52c3e48179"}`, `{"version":9}`, "\x00", `{"version":2,"\n":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := parseHello(text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x00") || len(err.Error()) > 512 {
				t.Fatalf("error %q", err)
			}
			return
		}
		if h.Version != Version {
			t.Fatalf("version %d", h.Version)
		}
		again, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseHello(again); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
	})
}

// validWelcome is what a server sends.
func validWelcome(t testing.TB) []byte {
	d := describe(t, export.Spec{Envs: 5, Outputs: everything})
	s, err := SegmentOf(d, 2)
	require.NoError(t, err)
	text, err := json.Marshal(welcome{Version: Version, Server: "x", Layout: HashText(Hash(d)), Segment: &s, Description: d})
	require.NoError(t, err)
	require.Less(t, len(text), maxWelcome)
	return text
}

func TestParseWelcome(t *testing.T) {
	good := string(validWelcome(t))
	_, err := parseWelcome([]byte(good))
	require.NoError(t, err)
	for _, change := range [][2]string{{`"envs":5`, `"envs":6`}, {`"envs":5`, `"envs":-1`}, {`"envs":5`, `"envs":99999999`}, {`"ops":4096`, `"ops":0`}, {`"shape":[5]`, `"shape":[4]`},
		{`"shape":[5]`, `"shape":[]`}, {`"name":"obs"`, `"name":"other"`}, {`"dtype":"uint8"`, `"dtype":"int64"`}, {`"version":2`, `"version":1`}, {`"pairs_per_env":128`, `"pairs_per_env":1`}} {
		bad := strings.Replace(good, change[0], change[1], 1)
		require.NotEqual(t, good, bad, change)
		_, err := parseWelcome([]byte(bad))
		require.Error(t, err, change)
	}
	_, err = parseWelcome([]byte(`{"version":2,"error":"range: taken"}`))
	require.EqualError(t, err, "range: taken")
}

func FuzzWelcome(f *testing.F) {
	f.Add(validWelcome(f))
	f.Add([]byte(`{"version":2,"error":"x"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		w, err := parseWelcome(text)
		if err != nil || w.Segment.Size > 1<<24 {
			return
		}
		mem := make([]byte, w.Segment.Size) // whatever passes can be indexed
		for _, at := range w.Segment.Blocks {
			buffers(mem, w.Description, at)
		}
		slice[uint8](mem, w.Segment.Ops, w.Description.Envs*w.Description.Slots)
		slice[int32](mem, w.Segment.Pairs, w.Description.Envs*w.Segment.PairsPerEnv*2)
	})
}
