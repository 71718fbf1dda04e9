package main

// #include <stdlib.h>
// #include "kvgym.h"
import "C"

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/kvgym/kvgym/export"
	"github.com/kvgym/kvgym/toolenv"
)

// Episodes played by tool calls: package toolenv under C names.

var (
	episodes sync.Map      // int64 to *toolenv.Env
	traces   export.Traces // that episodes share
)

var errEpisode = fmt.Errorf("%w: or kvgym_episode_open", errHandle)

func findEpisode(handle C.int64_t) (*toolenv.Env, error) {
	if e, ok := episodes.Load(int64(handle)); ok {
		return e.(*toolenv.Env), nil
	}
	return nil, errEpisode
}

// give writes texts to where the caller wants them; a caller who wants one not gives NULL.
func give(out **C.char, text string) {
	if out != nil {
		*out = C.CString(text)
	}
}

func giveJSON(out **C.char, x any) error {
	text, err := json.Marshal(x)
	if err == nil {
		give(out, string(text))
	}
	return err
}

//export goTools
func goTools(tools **C.char, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	return code(giveJSON(tools, toolenv.Tools()), errText, errSize)
}

//export goEpisodeOpen
func goEpisodeOpen(config *C.char, handle *C.int64_t, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	if handle == nil {
		return code(errors.New("episode: NULL: allowed where to write it"), errText, errSize)
	}
	e, err := openEpisode(config)
	if err != nil {
		return code(err, errText, errSize)
	}
	*handle = C.int64_t(newHandle())
	episodes.Store(int64(*handle), e)
	return C.KVGYM_OK
}

func openEpisode(config *C.char) (*toolenv.Env, error) {
	s, err := spec(config)
	if err != nil {
		return nil, err
	}
	cfg, err := traces.Config(&s)
	if err != nil {
		return nil, err
	}
	e, err := toolenv.Open(cfg)
	if err != nil {
		return nil, export.InWords(err)
	}
	return e, nil
}

//export goEpisodeClose
func goEpisodeClose(handle C.int64_t, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, ok := episodes.LoadAndDelete(int64(handle))
	if !ok {
		return code(errEpisode, errText, errSize)
	}
	return code(e.(*toolenv.Env).Close(), errText, errSize)
}

//export goEpisodePrompts
func goEpisodePrompts(handle C.int64_t, system, prompt **C.char, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := findEpisode(handle)
	if err == nil {
		give(system, e.System())
		give(prompt, e.Prompt())
	}
	return code(err, errText, errSize)
}

//export goEpisodeCall
func goEpisodeCall(handle C.int64_t, name, arguments *C.char, answer **C.char, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := findEpisode(handle)
	if err == nil {
		give(answer, e.Call(C.GoString(name), C.GoString(arguments))) // of NULL, too: it is empty
	}
	return code(err, errText, errSize)
}

//export goEpisodeStep
func goEpisodeStep(handle C.int64_t, message **C.char, done *C.int32_t, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := findEpisode(handle)
	if err != nil {
		return code(err, errText, errSize)
	}
	text, over, err := e.Step()
	if err == nil {
		give(message, text)
		if done != nil && over {
			*done = 1
		}
	}
	return code(err, errText, errSize)
}

//export goEpisodeResult
func goEpisodeResult(handle C.int64_t, out **C.char, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := findEpisode(handle)
	if err == nil {
		err = giveJSON(out, e.Result())
	}
	return code(err, errText, errSize)
}

//export goEpisodeSuggest
func goEpisodeSuggest(handle C.int64_t, policy *C.char, out **C.char, errText *C.char, errSize C.int64_t) (result C.int32_t) {
	defer rescue(&result, errText, errSize)
	e, err := findEpisode(handle)
	if err != nil {
		return code(err, errText, errSize)
	}
	calls, err := e.Suggest(C.GoString(policy))
	if err == nil {
		err = giveJSON(out, calls)
	}
	return code(err, errText, errSize)
}
