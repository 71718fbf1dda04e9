package scripted

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// Config describes a server.
type Config struct {
	Policy  string // a name of Policies, or script:FILE
	Key     string // that requests must bring; none: any or no key will do
	Context int    // tokens that the messages of a request may have; 0: any number
	Faults  Faults
}

// Server answers requests; it is an http.Handler. Several goroutines may call it at once.
type Server struct {
	cfg      Config
	decide   decider
	mux      *http.ServeMux
	requests atomic.Uint64
	faults   [NumFaults]atomic.Uint64
}

// maxBody bounds a request: some hundred times the longest conversation of an episode.
const maxBody = 64 << 20

// New makes a server.
func New(cfg Config) (*Server, error) {
	decide, err := newDecider(cfg.Policy)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, decide: decide, mux: http.NewServeMux()}
	for _, prefix := range []string{"", "/v1"} { // a client's base URL may end in /v1 or not
		s.mux.HandleFunc("POST "+prefix+"/chat/completions", s.complete)
		s.mux.HandleFunc("GET "+prefix+"/models", s.models)
		s.mux.HandleFunc("GET "+prefix+"/models/{name...}", s.model)
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "not_found", fmt.Sprintf("%s %s: allowed POST /v1/chat/completions, GET /v1/models", r.Method, r.URL.Path))
	})
	return s, nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Key != "" && r.Header.Get("Authorization") != "Bearer "+s.cfg.Key {
		refuse(w, http.StatusUnauthorized, "invalid_api_key", "key: missing or wrong: allowed the one that the server was started with")
		return
	}
	s.mux.ServeHTTP(w, r)
}

// Stats counts what the server has done.
type Stats struct {
	Requests uint64            `json:"requests"` // of completions
	Faults   map[string]uint64 `json:"faults"`
}

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	out := Stats{Requests: s.requests.Load(), Faults: map[string]uint64{}}
	for f := range NumFaults {
		if n := s.faults[f].Load(); n > 0 {
			out.Faults[Fault(f).String()] = n
		}
	}
	return out
}

// String is the counts in words.
func (s Stats) String() string {
	text := fmt.Sprintf("%d requests", s.Requests)
	for f := range NumFaults {
		if n := s.Faults[Fault(f).String()]; n > 0 {
			text += fmt.Sprintf(", fault %s: %d", Fault(f), n)
		}
	}
	return text
}

func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": []any{modelNamed(s.cfg.Policy)}})
}

func (s *Server) model(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, http.StatusOK, modelNamed(r.PathValue("name")))
}

func modelNamed(name string) map[string]any {
	return map[string]any{"id": name, "object": "model", "created": 0, "owned_by": "kvgym"}
}

// complete answers a chat-completions request, or does the fault that its number has.
func (s *Server) complete(w http.ResponseWriter, r *http.Request) {
	n := s.requests.Add(1)
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "invalid_request", fmt.Sprintf("body: %v: allowed %d bytes", err, maxBody))
		return
	}
	fault := s.cfg.Faults.of(n)
	if fault != sound {
		s.faults[fault].Add(1)
	}
	if !s.slow(r.Context(), n) || s.fail(w, fault, n) {
		return
	}
	req, err := parseRequest(body)
	if err != nil {
		refuse(w, http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	prompt := tokens(len(body))
	if s.cfg.Context > 0 && prompt > s.cfg.Context {
		refuse(w, http.StatusBadRequest, "context_length_exceeded", fmt.Sprintf("messages: %d tokens: allowed this model's maximum context length of %d tokens", prompt, s.cfg.Context))
		return
	}
	reply := s.decide(req)
	if fault == Arguments {
		reply.spoil()
	}
	a := newAnswer(req, reply, n, prompt)
	if req.Stream {
		a.stream(w, fault, req.StreamOptions.IncludeUsage)
		return
	}
	a.write(w, fault)
}

// fail answers with the status that a fault has, if it has one.
func (s *Server) fail(w http.ResponseWriter, fault Fault, n uint64) bool {
	switch fault {
	case Limited:
		after := s.cfg.Faults.RetryAfter
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds()))))
		w.Header().Set("Retry-After-Ms", strconv.FormatInt(after.Milliseconds(), 10)) // as OpenAI sends; clients prefer it
		refuse(w, http.StatusTooManyRequests, "rate_limit_exceeded", fmt.Sprintf("request %d: too many requests (a scripted fault)", n))
	case Broken:
		refuse(w, http.StatusInternalServerError, "internal_error", fmt.Sprintf("request %d: internal error (a scripted fault)", n))
	default:
		return false
	}
	return true
}

// slow waits if request n is a slow one; false: the client or the server has ended meanwhile.
func (s *Server) slow(ctx context.Context, n uint64) bool {
	if !s.cfg.Faults.hits(Slow, n) {
		return true
	}
	s.faults[Slow].Add(1)
	select {
	case <-time.After(s.cfg.Faults.Delay):
		return true
	case <-ctx.Done():
		return false
	}
}

// refuse answers with an error of the protocol.
func refuse(w http.ResponseWriter, status int, code, text string) {
	kind := "invalid_request_error"
	if status >= http.StatusInternalServerError {
		kind = "server_error"
	}
	writeJSON(w, status, map[string]any{"error": map[string]any{"message": text, "type": kind, "param": nil, "code": code}})
}

func writeJSON(w http.ResponseWriter, status int, document any) {
	text, err := json.Marshal(document)
	if err != nil {
		panic(fmt.Sprintf("scripted: %v", err)) // strings and integers always marshal
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that has gone is no error of ours
}

// Info tells where a server listens.
type Info struct {
	BaseURL string `json:"base_url"` // what clients take
	Policy  string `json:"policy"`
}

// Serve listens on an address such as 127.0.0.1:0, calls ready once requests can come, and serves until ctx ends. It then returns the cause.
func (s *Server) Serve(ctx context.Context, address string, ready func(Info)) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	h := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute, BaseContext: func(net.Listener) context.Context { return ctx }}
	ready(Info{BaseURL: "http://" + l.Addr().String() + "/v1", Policy: s.cfg.Policy})
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if h.Shutdown(last) != nil {
		_ = h.Close()
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return context.Cause(ctx)
}
