package toolenv

import (
	"testing"

	"github.com/kvgym/kvgym/vecenv"
	"github.com/stretchr/testify/require"
)

// What an episode costs: making it, a call, a step with its observation.
func BenchmarkEpisode(b *testing.B) {
	for _, profile := range profiles {
		cfg := vecenv.Config{Seed: 42, Profile: profile, Steps: 4096}
		b.Run(profile.String()+"/open", func(b *testing.B) {
			for range b.N {
				e, err := Open(cfg)
				require.NoError(b, err)
				require.NoError(b, e.Close())
			}
		})
		b.Run(profile.String()+"/call", func(b *testing.B) {
			e := open1(b, cfg)
			for i := range b.N {
				e.Call("compress", `{"seq_id": 7}`)
				if i%4096 == 0 {
					e.list = e.list[:0]
				}
			}
		})
		b.Run(profile.String()+"/step", func(b *testing.B) {
			e := open1(b, cfg)
			for range b.N {
				if e.done {
					b.StopTimer()
					e = open1(b, cfg)
					b.StartTimer()
				}
				_, _, err := e.Step()
				require.NoError(b, err)
			}
		})
	}
}
