package runs

import (
	"errors"
	"sync"
)

// Parallel runs f(0) to f(n-1) side by side, and joins their errors.
func Parallel(n int, f func(int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
