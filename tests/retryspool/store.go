// What RetrySpool's filesystem store does to a directory, call by call and in its order, and what
// its queue does with the store. Written anew for the tests; it shares no code with RetrySpool.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"
)

var states = []string{"incoming", "active", "deferred", "hold", "bounce", "archived"}

const (
	incoming = iota
	active
	deferred
	hold
	bounce
	archived
)

var (
	errNotFound = errors.New("message not found")
	errConflict = errors.New("state conflict")
)

type message struct {
	ID              string
	State           int
	Attempts        int
	MaxAttempts     int
	NextRetry       time.Time
	Created         time.Time
	Updated         time.Time
	LastError       string
	Size            int64
	Priority        int
	Headers         map[string]string
	RetryPolicyName string
}

type store struct {
	base  string
	locks sync.Map
}

// It makes the directories and removes what a crash left half-written.
func open(base string) (*store, error) {
	for _, state := range states {
		if err := os.MkdirAll(filepath.Join(base, state), 0o755); err != nil {
			return nil, err
		}
	}
	filepath.Walk(base, func(path string, info os.FileInfo, err error) error {
		if err == nil && (strings.Contains(info.Name(), ".tmp.") || strings.HasSuffix(info.Name(), ".tmp")) {
			os.Remove(path)
		}
		return nil
	})
	return &store{base: base}, nil
}

// Among this process's goroutines alone: other processes are not kept out.
func (s *store) lock(id string) func() {
	mutex, _ := s.locks.LoadOrStore(id, &sync.Mutex{})
	mutex.(*sync.Mutex).Lock()
	return mutex.(*sync.Mutex).Unlock
}

func (s *store) path(id string, state int) string {
	return filepath.Join(s.base, states[state], id+".json")
}

func syncDir(path string) {
	if dir, err := os.Open(path); err == nil {
		dir.Sync()
		dir.Close()
	}
}

func write(path string, m message, flush bool) (string, error) {
	suffix := make([]byte, 4)
	rand.Read(suffix)
	temporary := path + ".tmp." + hex.EncodeToString(suffix)
	file, err := os.Create(temporary)
	if err != nil {
		return "", err
	}
	defer file.Close()
	encoder := json.NewEncoder(file)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(m); err != nil {
		return "", err
	}
	if flush {
		return temporary, file.Sync()
	}
	return temporary, nil
}

func load(path string) (m message, err error) {
	file, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer file.Close()
	return m, json.NewDecoder(file).Decode(&m)
}

func (s *store) replace(m message) error {
	path := s.path(m.ID, m.State)
	temporary, err := write(path, m, true)
	if err != nil {
		os.Remove(temporary)
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		os.Remove(temporary)
		return err
	}
	syncDir(filepath.Dir(path))
	return nil
}

func (s *store) shift(m message, from int) error {
	path, old := s.path(m.ID, m.State), s.path(m.ID, from)
	temporary, err := write(path, m, false)
	if err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		os.Remove(temporary)
		return err
	}
	syncDir(filepath.Dir(path))
	os.Remove(old)
	syncDir(filepath.Dir(old))
	return nil
}

func (s *store) put(m message) error {
	defer s.lock(m.ID)()
	m.Updated = time.Now()
	if m.Created.IsZero() {
		m.Created = m.Updated
	}
	return s.replace(m)
}

func (s *store) get(id string) (message, error) {
	for state := range states {
		path := s.path(id, state)
		if _, err := os.Stat(path); err == nil {
			return load(path)
		}
	}
	return message{}, errNotFound
}

func (s *store) update(m message) error {
	defer s.lock(m.ID)()
	current, err := s.get(m.ID)
	if err != nil {
		return err
	}
	m.Updated, m.Created = time.Now(), current.Created
	if m.State != current.State {
		return s.shift(m, current.State)
	}
	return s.replace(m)
}

func (s *store) remove(id string) error {
	defer s.lock(id)()
	for state := range states {
		path := s.path(id, state)
		if os.Remove(path) == nil {
			syncDir(filepath.Dir(path))
			return nil
		}
	}
	return errNotFound
}

func (s *store) move(id string, from, to int) error {
	defer s.lock(id)()
	path := s.path(id, from)
	if _, err := os.Stat(path); os.IsNotExist(err) {
		return errConflict
	}
	m, err := load(path)
	if err != nil {
		return err
	}
	if m.State != from {
		return errConflict
	}
	m.State, m.Updated = to, time.Now()
	return s.shift(m, from)
}

// Every file of the state is read; an order is made by sorting all of them.
func (s *store) list(state int, by string, offset, limit int) ([]string, int) {
	entries, err := os.ReadDir(filepath.Join(s.base, states[state]))
	if err != nil {
		return nil, 0
	}
	var all []message
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".json") {
			continue
		}
		m, err := load(filepath.Join(s.base, states[state], entry.Name()))
		if err != nil {
			continue
		}
		m.ID = strings.TrimSuffix(entry.Name(), ".json")
		all = append(all, m)
	}
	if by == "created" {
		sort.Slice(all, func(i, j int) bool { return all[i].Created.Before(all[j].Created) })
	}
	var page []string
	for n := offset; n < len(all) && (limit == 0 || n < offset+limit); n++ {
		page = append(page, all[n].ID)
	}
	return page, len(all)
}

// The names alone, as its iterator goes through them to count.
func (s *store) count(state int) (count int) {
	dir, err := os.Open(filepath.Join(s.base, states[state]))
	if err != nil {
		return 0
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(100)
		for _, entry := range entries {
			if !strings.HasSuffix(entry.Name(), ".json") {
				continue
			}
			if _, err := load(filepath.Join(s.base, states[state], entry.Name())); err == nil {
				count++
			}
		}
		if err != nil || len(entries) == 0 {
			return count
		}
	}
}
