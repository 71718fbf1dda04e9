package trace

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSummarize(t *testing.T) {
	info, err := Summarize("testdata/mooncake.jsonl", Options{}, nil)
	require.NoError(t, err)
	sum := info.SHA256
	require.Len(t, sum, 64)
	require.Equal(t, Info{
		Format: "mooncake", Requests: 4, Sessions: 3, Blocks: 9, DistinctBlocks: 6,
		// Row 2 finds block 0, row 4 blocks 0 and 1.
		HitBlocks: 3, HitTokens: 512 + 1024,
		InputTokens: 1100 + 512 + 1700 + 1, OutputTokens: 20 + 1 + 33 + 7, LargestInput: 1700,
		FollowUps: 1, SecondsCovered: 3.0005, SHA256: sum,
	}, info)

	info, err = Summarize("testdata/burstgpt_older.csv", Options{SkipBadLines: true}, nil)
	require.NoError(t, err)
	require.Equal(t, int64(1), info.BadLines)
	require.Equal(t, "testdata/burstgpt_older.csv:3: Response tokens: 0: allowed >= 1 (a failed request)", info.FirstBadLine)
	_, err = Summarize("testdata/burstgpt_older.csv", Options{}, nil)
	require.EqualError(t, err, info.FirstBadLine)
	_, err = Summarize("testdata/none", Options{}, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// The names are an interface: commands print them.
func TestInfoJSON(t *testing.T) {
	text, err := json.Marshal(Info{})
	require.NoError(t, err)
	require.JSONEq(t, `{"format":"","requests":0,"sessions":0,"blocks":0,"distinct_blocks":0,"hit_blocks":0,"hit_tokens":0,
		"input_tokens":0,"output_tokens":0,"largest_input":0,"follow_ups":0,"seconds_covered":0,"bad_lines":0,
		"first_bad_line":"","sha256":""}`, string(text))
}

func TestSummarizeProgress(t *testing.T) {
	data := synthetic(t, 20000)
	require.Greater(t, len(data), 3*progressEvery)
	path := filepath.Join(t.TempDir(), "t.jsonl")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	var seen []int64
	_, err := Summarize(path, Options{}, func(read, total int64) {
		require.Equal(t, int64(len(data)), total)
		seen = append(seen, read)
	})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(seen), 3)
	require.IsNonDecreasing(t, seen)
	require.Equal(t, int64(len(data)), seen[len(seen)-1])
	require.NotEmpty(t, bytes.TrimSpace(data))
}
