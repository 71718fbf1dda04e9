package bench

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/kvgym/kvgym/vecenv"
)

// playStub is a rival in Go that speaks the protocol of package rivals: good and right by vecenv itself, or broken in one way.
func playStub(mode string, args []string) (status int) {
	if len(args) > 0 && args[0] == "-c" { // asked for Python modules
		if mode == "no-modules" {
			fmt.Fprintln(os.Stderr, "Traceback:\nNo module named this")
			return 1
		}
		return 0
	}
	fields := map[string]string{}
	number := func(key string) int {
		n, err := strconv.ParseUint(fields[key], 10, 63)
		if err != nil {
			fmt.Printf("error %s: %s\n", key, fields[key])
		}
		return int(n)
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		words := strings.Fields(in.Text())
		switch words[0] {
		case "init":
			for _, w := range words[1:] {
				key, value, _ := strings.Cut(w, "=")
				fields[key] = value
			}
			if mode == "bad-init" {
				fmt.Println("error out of order")
				continue
			}
			fmt.Println("ok")
		case "stagger":
			if mode == "dies" {
				fmt.Fprintln(os.Stderr, "out of luck")
				return 3
			}
			fmt.Println("ok")
		case "digest":
			if mode == "wrong" {
				fmt.Println("digest 0000000000000001")
				continue
			}
			sum, err := stubDigest(fields, number)
			if err != nil {
				fmt.Println("error", err)
				continue
			}
			fmt.Printf("digest %016x\n", sum)
		case "run":
			rounds, _ := strconv.Atoi(words[1])
			took := 1_000_000 * rounds
			if mode == "stuck-clock" {
				took = 0
			}
			if fields["kind"] != "" {
				fmt.Printf("ns %d %d\n", took, rounds*number("envs")*number("steps"))
				continue
			}
			fmt.Printf("ns %d\n", took)
		}
	}
	return 0
}

func stubDigest(fields map[string]string, number func(string) int) (uint64, error) {
	profile, err := vecenv.ParseProfile(fields["profile"])
	if err != nil {
		return 0, err
	}
	ops, err := os.ReadFile(fields["ops"])
	if err != nil {
		return 0, err
	}
	size := number("envs") * number("slots")
	if len(ops) != cycle*size {
		return 0, fmt.Errorf("ops: %d bytes", len(ops))
	}
	s, err := newScene(context.Background(), profile, number("envs"), number("slots"), uint64(number("seed")), uint32(number("first_env")),
		func(step int) []uint8 { return ops[step*size : (step+1)*size] })
	if err != nil {
		return 0, err
	}
	return s.digest(context.Background(), 0, number("envs"))
}
