//go:build !race

package e2e

// raceEnabled makes the programs be built like the tests.
const raceEnabled = false
