// retryspool work DIR PREFIX SECONDS WORKERS: a queue at work on DIR, as RetrySpool's runs: new
// messages come in, workers take them and give them back, some are archived, none is removed.
// Prints the ID of each message once it is stored.
//
// retryspool writes|reads DIR COUNT: the median time of each operation beside COUNT messages, in
// seconds.
//
// retryspool put|move|update|remove DIR ID ...: one operation. put DIR ID STATE,
// move DIR ID FROM TO, update DIR ID STATE, show DIR ID.
package main

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"
)

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	return n
}

func fresh(id string, state int) message {
	return message{
		ID: id, State: state, MaxAttempts: 10, NextRetry: time.Now(), Size: 2048, Priority: 5,
		Headers: map[string]string{"from": "<a@example.org>", "to": "user@example.com", "subject": "A & B"},
	}
}

func work(s *store, prefix string, seconds, workers int) {
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	var done sync.WaitGroup
	work := make(chan string)
	for n := 0; n < workers; n++ {
		done.Add(1)
		go func() {
			defer done.Done()
			for id := range work {
				deliver(s, id)
			}
		}()
	}
	for n := 0; time.Now().Before(end); n++ {
		id := fmt.Sprintf("%s-%06d", prefix, n)
		// Another one that starts just now may have removed the half-written file.
		if s.put(fresh(id, incoming)) != nil {
			continue
		}
		fmt.Println(id)
		// The scheduler takes what waits, in both states, wherever it came from.
		for _, state := range []int{incoming, deferred} {
			ids, _ := s.list(state, "created", 0, 3*workers)
			for _, id := range ids {
				if rand.Intn(3) == 0 && s.move(id, state, active) == nil {
					work <- id
				}
			}
		}
		// What was active when it began, and what came there by hand, is taken up again.
		if n%50 == 0 {
			ids, _ := s.list(active, "", 0, workers)
			for _, id := range ids {
				s.move(id, active, incoming)
			}
		}
	}
	close(work)
	done.Wait()
}

func deliver(s *store, id string) {
	m, err := s.get(id)
	if err != nil {
		return
	}
	time.Sleep(time.Duration(rand.Intn(3)) * time.Millisecond)
	m.Attempts++
	m.LastError = "451 4.7.1 <bob@example.org> try again later"
	switch rand.Intn(8) {
	case 0:
		m.State = bounce
	case 1:
		m.State = archived
	case 2:
		m.State = active
	default:
		m.State = deferred
	}
	s.update(m)
}

func timed(name string, times int, run func(n int)) {
	var all []float64
	for n := 0; n < times; n++ {
		start := time.Now()
		run(n)
		all = append(all, time.Since(start).Seconds())
	}
	sort.Float64s(all)
	fmt.Printf("%s %.9f\n", name, all[times/2])
}

func writes(s *store, count int) {
	id := func(n int) string { return fmt.Sprintf("0a1b2c3d-0000-4000-8000-%012d", n*7919%1000003) }
	few := 100
	timed("store", few, func(n int) { s.put(fresh(id(count+n), hold)) })
	timed("move", few, func(n int) { s.move(id(count+n), hold, bounce) })
	for n := 0; n < few; n++ {
		s.remove(id(count + n))
	}
}

func reads(s *store, count int) {
	timed("list", 3, func(int) { s.list(deferred, "", 0, 0) })
	timed("count", 3, func(int) { s.count(deferred) })
	timed("page", 3, func(int) { s.list(deferred, "created", count/2, 100) })
}

func main() {
	arguments := os.Args[1:]
	if len(arguments) < 2 {
		fmt.Fprintln(os.Stderr, "usage: retryspool work|writes|reads|put|move|update|remove|show DIR ...")
		os.Exit(2)
	}
	s, err := open(arguments[1])
	rest := arguments[2:]
	if err == nil {
		switch arguments[0] {
		case "work":
			work(s, rest[0], number(rest[1]), number(rest[2]))
		case "writes":
			writes(s, number(rest[0]))
		case "reads":
			reads(s, number(rest[0]))
		case "put":
			err = s.put(fresh(rest[0], number(rest[1])))
		case "move":
			err = s.move(rest[0], number(rest[1]), number(rest[2]))
		case "update":
			var m message
			if m, err = s.get(rest[0]); err == nil {
				m.State = number(rest[1])
				m.Attempts++
				err = s.update(m)
			}
		case "remove":
			err = s.remove(rest[0])
		case "show":
			var m message
			if m, err = s.get(rest[0]); err == nil {
				err = json.NewEncoder(os.Stdout).Encode(m)
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "retryspool:", err)
		os.Exit(1)
	}
}
