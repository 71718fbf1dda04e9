package vecenv_test

import (
	"fmt"
	"log"

	"github.com/kvgym/kvgym/vecenv"
)

// A thousand environments, stepped with a policy that compresses whatever it may.
func Example() {
	b, err := vecenv.New(vecenv.Config{Envs: 1000, Seed: 42, Outputs: vecenv.WithObs | vecenv.WithMask})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	if err := b.Reset(vecenv.ResetOptions{}); err != nil {
		log.Fatal(err)
	}
	ops := make([]uint8, 1000*64) // keep 0, evict 1, compress 2, swap 3, one a slot
	var total float64
	for range 15 {
		for slot := range ops {
			ops[slot] = 2 * b.Mask[4*slot+2] // compress where the mask allows it
		}
		if err := b.Step(vecenv.Actions{Ops: ops}); err != nil {
			log.Fatal(err)
		}
		for _, r := range b.Reward {
			total += float64(r)
		}
	}
	fmt.Printf("%d observations of %d values, mean score %.2f\n", len(b.Obs)/784, vecenv.ObsLen(64), total/1000)
	// Output: 1000 observations of 784 values, mean score 0.36
}

// Every value of an observation, with its range.
func ExampleObsLayout() {
	l := vecenv.ObsLayout(64)
	fmt.Println(l.DType, l.Length, l.Globals[0].Name, l.Globals[0].Formula, l.Slot[2].Name, l.Slot[2].High)
	// Output: float32 784 usage min(used, 2 budget) / budget reclaim 2
}
