package shm

import "fmt"

// What a client may want. A command is one word, so that the server reads it once and whole: bits 0 to 7 the kind, 8 to 15 its flags, 16 to
// 23 the block to write, 32 to 63 its number; the others are zero.
const (
	cmdStep       = 1 // of the op matrix
	cmdPairs      = 2 // of pairs, the number says how many an environment
	cmdReset      = 3 // the flags say what is given
	cmdIdentities = 4 // which episode each environment plays; writes no block

	flagMask  = 1
	flagSeeds = 2
)

// How a request ended.
const (
	statusDone    = 0
	statusRefused = 1 // the text says why; the environments are as they were
	statusBroken  = 2 // a step has panicked; the connection ends
	statusFoul    = 3 // the client broke the protocol; the connection ends
)

// command is a checked command word.
type command struct {
	kind        uint8
	mask, seeds bool // of a reset
	block       int  // to write the results to, plus 1; 0: the next in turn
	pairs       int  // an environment
}

func (c command) word() uint64 {
	w := uint64(c.kind) | uint64(uint8(c.block))<<16 | uint64(uint32(c.pairs))<<32
	if c.mask {
		w |= flagMask << 8
	}
	if c.seeds {
		w |= flagSeeds << 8
	}
	return w
}

// parseCommand checks a word that may be anything.
func parseCommand(w uint64, maxPairs, blocks int) (c command, err error) {
	kind, flags, block, rest, number := uint8(w), uint8(w>>8), uint8(w>>16), uint8(w>>24), uint32(w>>32)
	switch {
	case kind < cmdStep || kind > cmdIdentities:
		return c, fmt.Errorf("command: %d: allowed 1 (step), 2 (pairs), 3 (reset), 4 (identities)", kind)
	case rest != 0:
		return c, fmt.Errorf("command: bits 24 to 31: %#x: allowed 0", rest)
	case int(block) > blocks, kind == cmdIdentities && block != 0:
		return c, fmt.Errorf("command: block: %d: allowed 0 (the next) to %d, 0 for identities", block, blocks)
	case kind != cmdReset && flags != 0, flags > flagMask|flagSeeds:
		return c, fmt.Errorf("command: flags: %#x: allowed 1 (mask) and 2 (seeds), of a reset", flags)
	case kind != cmdPairs && number != 0:
		return c, fmt.Errorf("command: number: %d: allowed 0, but for pairs", number)
	case uint64(number) > uint64(maxPairs):
		return c, fmt.Errorf("pairs: %d an environment: allowed 0 to %d", number, maxPairs)
	}
	return command{kind: kind, mask: flags&flagMask != 0, seeds: flags&flagSeeds != 0, block: int(block), pairs: int(number)}, nil
}
