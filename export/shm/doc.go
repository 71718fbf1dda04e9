// Package shm serves environments to other processes of the same user through shared memory: kvgym serve stands on it, and docs/shared-memory.md
// describes the protocol for those who write clients in other languages. Use it where trainers run in processes of their own; a trainer in
// Go that needs no second process is better off with package vecenv.
//
// # Model
//
// A server splits its environments into contiguous ranges, and serves each to one client at a time as a vecenv.Batch. A client connects to a
// Unix socket, says in one message what it speaks and which range it wants, and gets one message with the layout and the descriptor of a
// segment: memory of its range alone, made for this connection and sealed against resizing. From then on the socket only tells each side
// that the other one lives; steps go through words in the segment.
//
// # Who owns which bytes when
//
// The client owns its request line, ops, mask, seeds and pairs, and every block of results, until it publishes a request. The server then
// reads those inputs, writes the next block in turn, or the one that the client has named, and its response line, and publishes the epoch of
// the request as done. All other blocks stay untouched, that of the last results among them unless the client wants it otherwise.
//
// # Trust
//
// Clients are processes of the same user, which can be broken or hostile all the same. The server never reads its own words back from a
// segment, copies the one command word before it looks at it, checks every number in it, and takes operations for bytes that may be anything
// and may change while they are read: they can only choose among the operations of the client's own environments. A segment is never used
// for a second client: a former one might still have it mapped.
//
// # Threads
//
// Serve may be called once for each name, any number of times in a process. A Client is driven by one goroutine at a time.
//
// Linux only: elsewhere Serve and Dial return an error.
package shm
