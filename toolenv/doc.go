// Package toolenv is the language-model face of kvgym: one episode played by tool calls. Use it to put a model that speaks of tools
// in charge of a cache; trainers that speak of tensors use vecenv.
//
// An Env is one environment of the tensor environment, with the same (seed, env) and the same rules, so that the same operations give the
// same bits. A turn is a step: the model sees a compact observation (Prompt, then what Step returns), calls tools (Call), and Step applies what
// was accepted, in the order of the calls, through the core's ordered list of actions.
//
// Whatever a model sends is answered in a sentence and never an error: a call that cannot be done is refused, changes nothing and is counted by
// kind (Faults). What Call accepts is exactly what the core then does; a turn has room for every operation that slots allow, at most
// four a slot. docs/language-models.md is the reference.
package toolenv
