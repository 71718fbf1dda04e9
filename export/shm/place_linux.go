package shm

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Where servers and clients meet: a directory that only this user can enter, holding NAME.sock and NAME.lock of every server that runs. The
// lock is what tells a live server from the socket of a dead one: the system drops it with the process, however that ends.

// RuntimeDir is where sockets stand: kvgym in $XDG_RUNTIME_DIR if that is set, else /tmp/kvgym-UID.
func RuntimeDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "kvgym")
	}
	return fmt.Sprintf("/tmp/kvgym-%d", os.Getuid())
}

// CheckName tells whether a server can be called so.
func CheckName(name string) error {
	ok := len(name) >= 1 && len(name) <= 64 && name[0] != '.'
	for _, c := range name {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c))
	}
	if !ok {
		return fmt.Errorf("name: %.80q: allowed 1 to 64 letters, digits, dots, dashes and underscores, no dot first", name)
	}
	return nil
}

// checkDir tells whether a directory is this user's alone. One that others could write to would let them put their socket there.
func checkDir(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Getuid() || info.Mode().Perm() != 0o700 {
		return fmt.Errorf("directory: %s: %s of user %d: allowed a directory of user %d with mode 0700", dir, info.Mode(), st.Uid, os.Getuid())
	}
	return nil
}

// maxSocketPath is what an address holds.
const maxSocketPath = 107

func socketPath(dir, name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	path := filepath.Join(dir, name+".sock")
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("socket: %s: %d bytes: allowed %d: use a shorter name or XDG_RUNTIME_DIR", path, len(path), maxSocketPath)
	}
	return path, nil
}

// place is a name that this process holds.
type place struct {
	lock     *os.File
	listener *net.UnixListener
	path     string
}

// claim takes a name and listens. What a dead server of that name has left is removed.
func claim(dir, name string) (*place, error) {
	path, err := socketPath(dir, name)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(dir, name+".lock"), name)
	if err != nil {
		return nil, err
	}
	l, err := listen(path)
	if err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("socket: %s: %w", path, err)
	}
	return &place{lock: lock, listener: l, path: path}, nil
}

func listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // release does, while it still holds the lock
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// lockFile opens and locks a file. A server that ends removes its own, so the file that we have locked may not be the one that stands
// there by now: then we try again.
func lockFile(path, name string) (*os.File, error) {
	for range 100 {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			owner := make([]byte, 20)
			n, _ := f.Read(owner)
			_ = f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("name: %s: taken by the server with process number %s: allowed one that no server has", name, plain(string(owner[:n])))
			}
			return nil, fmt.Errorf("lock: %s: %w", path, err)
		}
		ours, err := f.Stat()
		theirs, err2 := os.Lstat(path)
		if err == nil && err2 == nil && os.SameFile(ours, theirs) {
			_ = f.Truncate(0)
			_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
			return f, nil
		}
		_ = f.Close()
	}
	return nil, fmt.Errorf("lock: %s: servers of that name come and go: try again", path)
}

// release gives the name back, and leaves nothing behind.
func (p *place) release() {
	_ = p.listener.Close()
	_ = os.Remove(p.path)
	_ = os.Remove(p.lock.Name())
	_ = p.lock.Close()
}

// peer tells who is at the other end.
func peer(c *net.UnixConn) (cred unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return cred, err
	}
	var got *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { got, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return cred, err
	}
	if failed != nil {
		return cred, failed
	}
	return *got, nil
}

// sameUser is the check of every peer's user.
func sameUser(uid uint32) error {
	if int(uid) != os.Getuid() {
		return fmt.Errorf("user: %d: allowed %d, whose server this is", uid, os.Getuid())
	}
	return nil
}
