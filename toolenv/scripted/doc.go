// Package scripted is a language model that is none: an HTTP server of the chat-completions protocol whose replies are those of a policy or a
// script. Use it to run anything that drives a model in kvgym, in any language, with real requests and without a key.
//
// # What it decides from
//
// From the messages of the request alone, as a model does. A policy reads the newest compact observation in the last user message and answers
// with tool calls; a script's turn is the number of assistant messages so far. So the server has no sessions, any number of conversations may
// go on at once, and a repeated request gets the same reply. A request that offers no tools gets text.
//
// # What it speaks
//
// POST /v1/chat/completions, plain and as a stream of events (stream: true, with stream_options), with several tool calls a message and with
// usage counted as a token for four bytes; GET /v1/models and /v1/models/NAME. Any model name will do. Fields that it does not know are ignored.
// Errors have the protocol's form.
//
// # Faults
//
// Faults says which requests, counted from 1, go wrong and how: a share of them, drawn from a seed, or those of given numbers. A retried
// request is a new one.
package scripted
