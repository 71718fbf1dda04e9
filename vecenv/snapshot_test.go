package vecenv_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/kvgym/kvgym/kv"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// snapshotConfig is a batch that both processes of TestSnapshotInAnotherProcess make.
func snapshotConfig() vecenv.Config {
	return vecenv.Config{Envs: 20, Steps: 12, Seed: 3, Workers: 1, Source: mustSynthetic(64, 12, scenario.All), Outputs: vecenv.AllOutputs}
}

// playOn makes n steps of the fixed operations, beginning with those of step first, and returns the digests.
func playOn(t *testing.T, b *vecenv.Batch, first, n int) []uint64 {
	digests := make([]uint64, b.Envs())
	for step := first; step < first+n; step++ {
		play{workers: 1}.step(t, b, step)
		for i := range digests {
			digests[i] = digest(b, i, digests[i])
		}
	}
	return digests
}

func TestSnapshotRoundTrip(t *testing.T) {
	b := newBatch(t, snapshotConfig())
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	playOn(t, b, 0, 7)
	s, err := b.Snapshot([]byte("before"), 0, 20)
	require.NoError(t, err)
	require.Equal(t, "before", string(s[:6]))
	want := playOn(t, b, 7, 20)

	require.NoError(t, b.Restore(s[6:], 0), "into the same batch")
	require.Equal(t, want, playOn(t, b, 7, 20))

	again, err := b.Snapshot(nil, 0, 20)
	require.NoError(t, err)
	require.NoError(t, b.Restore(again, 0))
	twice, err := b.Snapshot(nil, 0, 20)
	require.NoError(t, err)
	require.Equal(t, again, twice, "a restored batch gives the same snapshot")
}

// Rows may move: environment 4 continues in row 9 of a larger batch exactly as it would have in row 4.
func TestSnapshotElsewhere(t *testing.T) {
	b := newBatch(t, snapshotConfig())
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	playOn(t, b, 0, 5)
	s, err := b.Snapshot(nil, 4, 5)
	require.NoError(t, err)
	cfg := snapshotConfig()
	cfg.Envs = 40
	other := newBatch(t, cfg)
	require.NoError(t, other.Reset(vecenv.ResetOptions{}))
	require.NoError(t, other.Restore(s, 9))
	require.Equal(t, b.Identity(4), other.Identity(9))
	for range 12 {
		require.NoError(t, b.Step(vecenv.Actions{}))
		require.NoError(t, other.Step(vecenv.Actions{}))
		require.Equal(t, digest(b, 4, 0), digest(other, 9, 0))
	}
}

func TestSnapshotOfEndedAndFresh(t *testing.T) {
	b := newBatch(t, snapshotConfig())
	s, err := b.Snapshot(nil, 0, 1)
	require.NoError(t, err)
	other := newBatch(t, snapshotConfig())
	require.NoError(t, other.Restore(s, 3))
	require.ErrorContains(t, other.Step(vecenv.Actions{}), "never reset")

	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	playOn(t, b, 0, 12) // ended: the reset is pending, and travels with the snapshot
	s, err = b.Snapshot(nil, 0, 20)
	require.NoError(t, err)
	require.NoError(t, other.Restore(s, 0))
	require.Equal(t, playOn(t, b, 12, 3), playOn(t, other, 12, 3))
}

const childSnapshot = "KVGYM_TEST_SNAPSHOT"

// TestSnapshotInAnotherProcess has a child process take the snapshot and this one continue it.
func TestSnapshotInAnotherProcess(t *testing.T) {
	if path := os.Getenv(childSnapshot); path != "" {
		b := newBatch(t, snapshotConfig())
		require.NoError(t, b.Reset(vecenv.ResetOptions{}))
		playOn(t, b, 0, 8)
		s, err := b.Snapshot(nil, 0, 20)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, s, 0o600))
		return
	}
	path := filepath.Join(t.TempDir(), "snapshot")
	cmd := exec.Command(os.Args[0], "-test.run", "^TestSnapshotInAnotherProcess$")
	cmd.Env = append(os.Environ(), childSnapshot+"="+path)
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.ENOEXEC) {
		t.Skip("the kernel cannot start a child of this architecture: user-mode emulation")
	}
	require.NoError(t, err, string(out))
	s, err := os.ReadFile(path)
	require.NoError(t, err)

	b, c := newBatch(t, snapshotConfig()), newBatch(t, snapshotConfig())
	require.NoError(t, b.Restore(s, 0))
	require.NoError(t, c.Reset(vecenv.ResetOptions{}))
	playOn(t, c, 0, 8)
	require.Equal(t, playOn(t, c, 8, 20), playOn(t, b, 8, 20))
}

func TestForkWithinABatch(t *testing.T) {
	b := newBatch(t, snapshotConfig())
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	playOn(t, b, 0, 5)
	require.NoError(t, b.Fork(2, b, 7))
	for range 15 {
		require.NoError(t, b.Step(vecenv.Actions{}))
		require.Equal(t, digest(b, 2, 0), digest(b, 7, 0))
		require.NotEqual(t, digest(b, 2, 0), digest(b, 8, 0))
	}
}

func TestForkRefuses(t *testing.T) {
	b := newBatch(t, snapshotConfig())
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	cfg := snapshotConfig()
	cfg.MaxWait = 7
	require.ErrorContains(t, b.Fork(0, newBatch(t, cfg), 0), "allowed equal ones")
	require.ErrorContains(t, b.Fork(20, b, 0), "environment 20 to 0")
	require.ErrorContains(t, b.Fork(0, b, -1), "environment 0 to -1")
	require.Zero(t, testing.AllocsPerRun(10, func() { _ = b.Fork(0, b, 1) }))
}

func TestBadSnapshots(t *testing.T) {
	b := newBatch(t, snapshotConfig())
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	playOn(t, b, 0, 4)
	s, err := b.Snapshot(nil, 0, 20)
	require.NoError(t, err)
	before := digest(b, 0, 0)
	edit := func(f func(s []byte) []byte) []byte { return f(append([]byte(nil), s...)) }
	for _, c := range []struct {
		snapshot []byte
		says     string
	}{
		{nil, "not one"},
		{[]byte("KVGYMSNP"), "not one"},
		{edit(func(s []byte) []byte { s[8]++; return s }), "format version 3: allowed 2"},
		{edit(func(s []byte) []byte { s[500] ^= 1; return s }), "checksum"},
		{s[:len(s)-100], "checksum"},
		{edit(func(s []byte) []byte { s[len(s)-1] ^= 1; return s }), "checksum"},
		{reseal(edit(func(s []byte) []byte { return append(s[:len(s)-4], make([]byte, 12)...) })), "bytes for 20 environments: allowed"},
		{reseal(edit(func(s []byte) []byte { binary.LittleEndian.PutUint32(s[12:], 1<<31); return s })), "truncated fingerprint"},
		{reseal(edit(func(s []byte) []byte { s[30] ^= 1; return s })), "made by"},
	} {
		require.ErrorContains(t, b.Restore(c.snapshot, 0), c.says)
	}
	require.ErrorContains(t, b.Restore(s, 1), "20 environments at 1: allowed within 0 to 20")
	_, err = b.Snapshot(nil, 3, 3)
	require.ErrorContains(t, err, "environments 3 to 3")
	_, err = b.Snapshot(nil, 0, 21)
	require.ErrorContains(t, err, "environments 0 to 21")
	require.Equal(t, before, digest(b, 0, 0), "a refused snapshot changes nothing")
	cfg := snapshotConfig()
	cfg.Source = mustSynthetic(64, 12, scenario.Easy)
	require.ErrorContains(t, newBatch(t, cfg).Restore(s, 0), "difficulty=easy")
}

// What the kernel of a whole step cannot count is refused where it does the steps: a snapshot may say anything.
func TestSnapshotsBeyondTheKernel(t *testing.T) {
	b := newBatch(t, snapshotConfig())
	require.NoError(t, b.Reset(vecenv.ResetOptions{}))
	s, err := b.Snapshot(nil, 0, 1)
	require.NoError(t, err)
	var tokens, pages []byte // of the first slots, which hold the prefixes' system entries; of the prefixes
	for i := range 4 {
		slot, _ := b.View(0).Slot(i)
		require.Equal(t, kv.System, slot.Type)
		tokens = binary.LittleEndian.AppendUint32(tokens, slot.Tokens)
	}
	for _, n := range b.View(0).Episode().PrefixPages {
		pages = binary.LittleEndian.AppendUint16(pages, n)
	}
	edit := func(what []byte, value uint32) []byte {
		at := bytes.Index(s, what)
		require.Positive(t, at)
		changed := bytes.Clone(s)
		binary.LittleEndian.PutUint16(changed[at+2:], uint16(value>>16)) // the upper half of the first tokens, or prefix 1
		return reseal(changed)
	}
	require.ErrorContains(t, b.Restore(edit(tokens, 1<<22), 0), "to 2097152")
	require.ErrorContains(t, b.Restore(edit(pages, 20_000<<16), 0), "PrefixPages: [20000 ")
	require.NoError(t, b.Restore(s, 0))
}

// reseal gives a snapshot that was changed a right checksum.
func reseal(s []byte) []byte {
	binary.LittleEndian.PutUint32(s[len(s)-4:], crc32.ChecksumIEEE(s[:len(s)-4]))
	return s
}

// FuzzRestore changes bytes of a good snapshot and reseals it: Restore must refuse it, or accept a state that is consistent
// and can be stepped to its end and beyond.
func FuzzRestore(f *testing.F) { fuzzRestore(f, snapshotConfig(), vecenv.Actions{}) }

// FuzzRestoreServing does it for the serving profile, with operations before and after.
func FuzzRestoreServing(f *testing.F) {
	p := slowLink(kv.Presets()[0])
	ops := make([]uint8, 128)
	for s := range ops {
		ops[s] = uint8(s % 7 % 4)
	}
	fuzzRestore(f, vecenv.Config{Steps: 12, Seed: 3, Workers: 1, Profile: vecenv.Serving, Preset: p, Source: mustAgents(64, 12, scenario.Hard, p), Outputs: vecenv.AllOutputs},
		vecenv.Actions{Ops: ops})
}

func fuzzRestore(f *testing.F, cfg vecenv.Config, a vecenv.Actions) {
	cfg.Envs = 2
	b, err := vecenv.New(cfg)
	require.NoError(f, err)
	require.NoError(f, b.Reset(vecenv.ResetOptions{}))
	for range 6 {
		require.NoError(f, b.Step(a))
	}
	good, err := b.Snapshot(nil, 0, 1)
	require.NoError(f, err)
	for k := 0; k < len(good); k += 37 {
		f.Add(uint16(k), uint64(0xFF))
		f.Add(uint16(k), ^uint64(0))
	}
	f.Fuzz(func(t *testing.T, at uint16, change uint64) {
		s := append([]byte(nil), good...)
		for k := range 8 {
			s[(int(at)+k)%(len(s)-4)] ^= byte(change >> (8 * k))
		}
		if b.Restore(reseal(s), 1) != nil {
			return
		}
		require.NoError(t, b.Check())
		if err := b.Step(vecenv.Actions{}); err != nil { // the change was to its flag
			require.ErrorContains(t, err, "never reset")
			return
		}
		for range 30 {
			require.NoError(t, b.Step(a))
		}
		require.NoError(t, b.Check())
	})
}
