package trace

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// realTrace returns the path of a published trace, which is not part of the
// project; the test is skipped, visibly, where it is missing.
func realTrace(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("KVGYM_TRACES")
	if dir == "" {
		t.Skip("KVGYM_TRACES is not set: set it to a folder with the published traces to check their figures")
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("the folder KVGYM_TRACES has no %s: its figures are not checked", name)
	}
	return path
}

func TestRealMooncakeConversation(t *testing.T) {
	info, err := Summarize(realTrace(t, "mooncake_conversation.jsonl"), Options{}, nil)
	require.NoError(t, err)
	require.Equal(t, "b8cbb061a85206d7", info.SHA256[:16])
	info.SHA256 = ""
	require.Equal(t, Info{
		Format: "mooncake", Requests: 12_031, Sessions: 7_373, Blocks: 288_500, DistinctBlocks: 182_790,
		HitBlocks: 105_710, HitTokens: 54_098_411, InputTokens: 144_793_823, OutputTokens: 4_122_048,
		LargestInput: 126_195, FollowUps: 4_658, SecondsCovered: 3536.999,
	}, info)
}

func TestRealVidurSplitwise(t *testing.T) {
	info, err := Summarize(realTrace(t, "vidur_splitwise_conv.csv"), Options{}, nil)
	require.NoError(t, err)
	require.Equal(t, "439e4138b7e384f3", info.SHA256[:16])
	info.SHA256 = ""
	require.Equal(t, Info{
		Format: "vidur", Requests: 19_366, Sessions: 19_366, InputTokens: 22_361_870, OutputTokens: 4_088_665,
		LargestInput: 14_050, SecondsCovered: 3501.721937,
	}, info)
}
