package policy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvgym/kvgym/policy"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

const tinyNetwork = "onnx:onnx/testdata/tiny.onnx"

// A network plays validly on every shape, does something, and the same thing twice.
func TestNetworkPlays(t *testing.T) {
	for _, src := range []scenario.Source{synthetic(t, 16, 15, scenario.Hard), synthetic(t, 64, 15, scenario.All), synthetic(t, 256, 4, scenario.Easy)} {
		b, again := episodes(t, tinyNetwork, 3, src, 5), episodes(t, tinyNetwork, 3, src, 5)
		done := uint32(0)
		for i := range b.Envs() {
			c := b.View(i).Counters()
			require.Zero(t, c.Invalid)
			require.Equal(t, b.View(i).Score(), again.View(i).Score())
			done += c.Evictions + c.Compressions + c.Swaps
		}
		require.Positive(t, done)
	}
}

// One network serves batches of different numbers of slots in turn.
func TestNetworkFitsWhatItSees(t *testing.T) {
	p, err := policy.NewFor(tinyNetwork, 64)
	require.NoError(t, err)
	require.Equal(t, tinyNetwork, p.Name())
	require.Len(t, policy.Fingerprint(p), 64)
	for _, slots := range []int{16, 64, 16} {
		b, err := vecenv.New(vecenv.Config{Envs: 1, Source: synthetic(t, slots, 15, scenario.Hard), Slots: slots, Steps: 15, Workers: 1})
		require.NoError(t, err)
		require.NoError(t, b.Reset(vecenv.ResetOptions{}))
		var a policy.Actions
		p.Act(b.View(0), &a)
		for k := 0; k < len(a.Pairs()); k += 2 {
			require.Less(t, int(a.Pairs()[k+1]), slots)
		}
		b.Close()
	}
}

func TestNetworkRefusals(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text.onnx")
	require.NoError(t, os.WriteFile(text, []byte("not a network"), 0o600))
	data, err := os.ReadFile("onnx/testdata/tiny.onnx")
	require.NoError(t, err)
	other := filepath.Join(dir, "other.onnx")
	require.NoError(t, os.WriteFile(other, []byte(strings.ReplaceAll(string(data), "Relu", "Tanh")), 0o600))
	for name, want := range map[string]string{
		"onnx:":                            "policy: onnx:: no such file or directory",
		"onnx:" + dir + "/absent":          "policy: onnx:" + dir + "/absent: no such file or directory",
		"onnx:" + dir:                      "policy: onnx:" + dir + ": allowed a regular file",
		"onnx:" + text:                     "policy: onnx:" + text + ": onnx: protobuf",
		"onnx:" + other:                    "Tanh: no such operator here: allowed Add",
		"onxx:" + text:                     "allowed noop, random,",
		"onnx:onnx/testdata/tiny.onnx\x00": "invalid argument",
	} {
		_, err := policy.NewFor(name, 64)
		require.ErrorContains(t, err, want, "%q", name)
	}
	p, err := policy.New("greedy")
	require.NoError(t, err)
	require.Empty(t, policy.Fingerprint(p))
}

// The network that comes with the example beats every rule of the serving profile on every difficulty, as docs/training.md says. These
// are neither the episodes that it was trained on nor those of the documentation.
func TestTrainedNetwork(t *testing.T) {
	p, n := preset(t), episodesFor(500, 200)
	for _, d := range []scenario.Difficulty{scenario.Easy, scenario.Medium, scenario.Hard} {
		src := agents(t, d, p)
		net := playServing(t, named(t, "onnx:../examples/serving.onnx"), src, p, n)
		for _, rule := range servingRules {
			mean, se := gain(net, playServing(t, named(t, rule), src, p, n))
			require.Greater(t, mean, significant*se, "%s, %s: gains %.4f, standard error %.4f", d, rule, mean, se)
		}
		t.Logf("%s: %.4f ± %.4f", d, net.mean(), net.half())
	}
}
