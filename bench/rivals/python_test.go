package rivals_test

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kvgym/kvgym/bench/rivals"
	"github.com/kvgym/kvgym/scenario"
	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// pythonRivals finds the interpreter and writes the programs.
func pythonRivals(t *testing.T) (python, dir string) {
	python, err := rivals.FindPython(filepath.Join("..", ".."))
	if err != nil {
		t.Skip("SKIP:", err)
	}
	dir = t.TempDir()
	require.NoError(t, rivals.WritePython(dir))
	return python, dir
}

// TestPythonIsEqual compares the outputs of the Python rivals with vecenv's, every bit: an environment that played another
// game, or a vector environment that was driven wrongly, would make a comparison of speeds worthless.
func TestPythonIsEqual(t *testing.T) {
	python, dir := pythonRivals(t)
	program := filepath.Join(dir, "gymnasium_rival.py")
	for _, c := range []struct {
		envs, slots, steps, wait, cycle int
		seed                            uint64
		first                           uint32
		difficulty                      scenario.Difficulty
		ops                             drawOps
		modes                           []string
	}{
		{8, 64, 15, 5, 32, 42, 0, scenario.All, validOps, []string{"sync", "async"}},
		{8, 64, 15, 5, 32, 43, 7, scenario.Hard, anyOps, []string{"sync", "async"}},
		{8, 64, 15, 5, 32, math.MaxUint64, math.MaxUint32 - 7, scenario.Easy, validOps, []string{"sync"}},
		{20, 64, 15, 5, 96, 44, 0, scenario.Medium, anyOps, []string{"sync"}},
		{4, 256, 40, 5, 32, 45, 0, scenario.All, anyOps, []string{"sync"}},
		{8, 48, 1, 1, 32, 46, 0, scenario.All, validOps, []string{"sync"}},
		{8, 16, 400, 9, 200, 12, 0, scenario.All, gentleOps, []string{"sync"}},
		{6, 32, 400, 9, 96, 14, 58, scenario.Easy, noOps, []string{"sync"}}, // memory runs into the capacity; of several that grow, some stall
	} {
		for _, mode := range c.modes {
			s := &setup{Config: vecenv.Config{Envs: c.envs, Slots: c.slots, Steps: c.steps, MaxWait: c.wait, Seed: c.seed, FirstEnv: c.first},
				difficulty: c.difficulty, cycle: c.cycle, ops: c.ops}
			t.Run(mode+"/"+s.name(), func(t *testing.T) {
				t.Parallel()
				want := s.play(t)
				p := start(t, python, program, mode)
				require.NoError(t, p.Init(s.workload(t)))
				require.NoError(t, p.Stagger())
				for range 2 { // the second time shows that it goes back to the start state
					got, err := p.Digest()
					require.NoError(t, err)
					require.Equal(t, want, got)
					_, err = p.Run(1)
					require.NoError(t, err)
				}
				require.NoError(t, p.Close())
			})
		}
	}
}

func TestPythonErrors(t *testing.T) {
	python, dir := pythonRivals(t)
	p := start(t, python, filepath.Join(dir, "gymnasium_rival.py"), "sync")
	require.ErrorContains(t, p.Stagger(), "init first")
	ops := filepath.Join(dir, "ops")
	require.NoError(t, os.WriteFile(ops, make([]byte, 2*16*3), 0o644))
	w := rivals.Workload{Profile: "serving", Envs: 2, Slots: 16, Steps: 15, MaxWait: 5, Cycle: 3, Difficulty: "all", OpsPath: ops}
	require.ErrorContains(t, p.Init(w), "profile: serving: allowed seed")
	w.Profile, w.Cycle = "seed", 4
	require.ErrorContains(t, p.Init(w), "96 bytes: allowed 128")
	w.Cycle, w.Slots = 3, 17
	require.Error(t, p.Init(w))
	w.Slots = 16
	require.NoError(t, p.Init(w), "an error leaves the process usable")
	_, err := p.Digest()
	require.ErrorContains(t, err, "stagger first")
	require.NoError(t, p.Stagger())
	_, err = p.Run(0)
	require.ErrorContains(t, err, "rounds: 0")
	require.NoError(t, p.Close())
}

// What Gymnasium itself demands of an environment, and rule 11.2: a seed names a stream, whatever the environment was.
func TestPythonEnvIsGymnasium(t *testing.T) {
	python, dir := pythonRivals(t)
	cmd := exec.Command(python, "-W", "error::UserWarning", "-c", `
from gymnasium.utils.env_checker import check_env
from kvgym_env import KVEnv
check_env(KVEnv(slots=32), skip_render_check=True)
other = KVEnv(1, 2, steps=3)
other.reset()
for _ in range(2):
    assert (other.reset(seed=5)[0] == KVEnv(5, steps=3).reset()[0]).all()
    assert other.observation_space.contains(other.step(other.action_space.sample())[0])
assert other.action_mask().shape == (64, 4)
`)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func TestCartPole(t *testing.T) {
	python, dir := pythonRivals(t)
	p := start(t, python, filepath.Join(dir, "cartpole_rival.py"))
	for _, c := range []rivals.CartPole{
		{Kind: "envpool", Envs: 8, Batch: 8, Threads: 1, Steps: 20},
		{Kind: "envpool", Envs: 8, Batch: 4, Threads: 2, Steps: 20},
		{Kind: "gymnasium-vector", Envs: 8, Steps: 20},
	} {
		require.NoError(t, p.InitCartPole(c))
		took, steps, err := p.RunCartPole(3)
		require.NoError(t, err)
		require.Positive(t, took)
		want := 3 * 20 * c.Envs
		if c.Batch != 0 {
			want = 3 * 20 * c.Batch
		}
		require.EqualValues(t, want, steps)
	}
	require.ErrorContains(t, p.InitCartPole(rivals.CartPole{Kind: "none", Envs: 1, Steps: 1}), "kind: none")
	require.NoError(t, p.Close())
}

func TestFindPython(t *testing.T) {
	t.Setenv("KVGYM_BENCH_PYTHON", "")
	root := t.TempDir()
	_, err := rivals.FindPython(root)
	require.ErrorContains(t, err, "make bench-venv")

	python := filepath.Join(root, ".venv-bench", "bin", "python")
	require.NoError(t, os.MkdirAll(filepath.Dir(python), 0o755))
	require.NoError(t, os.WriteFile(python, nil, 0o755))
	got, err := rivals.FindPython(root)
	require.NoError(t, err)
	require.Equal(t, python, got)

	t.Setenv("KVGYM_BENCH_PYTHON", filepath.Join(root, "none"))
	_, err = rivals.FindPython(root)
	require.ErrorContains(t, err, "KVGYM_BENCH_PYTHON")
}
